"""Whether a wheel and an sdist hold what a user without Node.js needs: the built player.

python tests/package.py DIRECTORY      the directory that `python -m build` wrote to
"""

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUNDLE = ["page.js", "widget.js"]


def main(directory: Path) -> None:
    (wheel,) = directory.glob("*.whl")
    (sdist,) = directory.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name: archive.read(f"bptt/bundle/{name}") for name in BUNDLE}
    with tarfile.open(sdist) as archive:
        stem = sdist.name.removesuffix(".tar.gz")
        in_sdist = {name: _read(archive, f"{stem}/src/bptt/bundle/{name}") for name in BUNDLE}
    built = {name: (ROOT / "src/bptt/bundle" / name).read_bytes() for name in BUNDLE}
    if not in_wheel == in_sdist == built:
        sys.exit("wheel and sdist must hold src/bptt/bundle as it is; they hold other bytes")
    print(f"{wheel.name} and {sdist.name} hold the player")


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None
    return member.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
