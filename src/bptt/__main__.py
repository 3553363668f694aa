"""Where every command begins, installed as `bptt` or called by `python -m bptt`."""

from bptt import startup


def main() -> None:
    startup.begin()
    from bptt.cli import main

    main()


if __name__ == "__main__":
    main()
