"""The tape: every number of both sides, recorded from the fast path; its check, its file, its page."""

from bptt.autograd.recorded import Record
from bptt.tape.tape import Tape
from bptt.tape.watch import Watch, watch
from bptt.tape.watcher import record, recording

__all__ = ["Record", "Tape", "Watch", "record", "recording", "watch"]
