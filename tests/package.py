"""Whether a wheel and an sdist hold what a user needs: all of src/bptt that is in git, and the built player.

python tests/package.py DIRECTORY      the directory that `python -m build` wrote to
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src/bptt"
PLAYER = ["tape/bundle/page.js", "tape/bundle/widget.js"]


def main(directory: Path) -> None:
    (wheel,) = directory.glob("*.whl")
    (sdist,) = directory.glob("*.tar.gz")
    tracked = subprocess.run(["git", "ls-files"], cwd=PACKAGE, check=True, capture_output=True, text=True).stdout
    built = {name: (PACKAGE / name).read_bytes() for name in [*tracked.splitlines(), *PLAYER]}
    with zipfile.ZipFile(wheel) as archive:
        _check(wheel, {name: archive.read(name) for name in archive.namelist()}, "bptt", built)
    with tarfile.open(sdist) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        held = {name: file.read() for name, file in files.items() if file is not None}
        _check(sdist, held, f"{sdist.name.removesuffix('.tar.gz')}/src/bptt", built)
    print(f"{wheel.name} and {sdist.name} hold all {len(built)} files of the package and the player")


def _check(path: Path, held: dict[str, bytes], root: str, built: dict[str, bytes]) -> None:
    other = [name for name, content in built.items() if held.get(f"{root}/{name}") != content]
    if other:
        sys.exit(f"{path.name} must hold all of src/bptt as it is; other or missing: {', '.join(sorted(other))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
