"""`bptt` that saves a checkpoint three times a second, so that a test need not wait for one."""

import sys

from bptt.cli import main
from bptt.train import loop

if __name__ == "__main__":
    loop.SECONDS_PER_SAVE = 0.3
    sys.argv[0] = "bptt"
    main()
