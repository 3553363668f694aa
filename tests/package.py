"""Whether a wheel and an sdist hold what a user needs: the built player, and the mark that the package has types.

python tests/package.py DIRECTORY      the directory that `python -m build` wrote to
"""

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = ["tape/bundle/page.js", "tape/bundle/widget.js", "py.typed"]


def main(directory: Path) -> None:
    (wheel,) = directory.glob("*.whl")
    (sdist,) = directory.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name: archive.read(f"bptt/{name}") for name in FILES}
    with tarfile.open(sdist) as archive:
        stem = sdist.name.removesuffix(".tar.gz")
        in_sdist = {name: _read(archive, f"{stem}/src/bptt/{name}") for name in FILES}
    built = {name: (ROOT / "src/bptt" / name).read_bytes() for name in FILES}
    if not in_wheel == in_sdist == built:
        sys.exit("wheel and sdist must hold the bundle and py.typed of src/bptt as they are; they hold other bytes")
    print(f"{wheel.name} and {sdist.name} hold the player and py.typed")


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None
    return member.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
