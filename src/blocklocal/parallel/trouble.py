"""From an error in one process to what all are told: who failed, in words, with the exit status."""

from blocklocal._common.errors import InputError, file_trouble, first_line
from blocklocal.parallel.processes import Processes
from blocklocal.parallel.wire import LinkError, is_lost_connection


def report_failure(processes: Processes, error: BaseException) -> int:
    """Report an error of this process.

    Where it is the consequence of another process's end, the watch finds out whose, and ends this process here.

    Returns:
        The exit status.
    """
    text, status = describe_failure(processes, error)
    if processes.watch is not None:
        gone = (isinstance(error, LinkError) and not error.late) or is_lost_connection(error)
        if gone:
            processes.watch.await_cause()
        processes.watch.fail(text, status)
    return status


def describe_failure(processes: Processes, error: BaseException) -> tuple[str, int]:
    """What became of this process, to follow its name; and the exit status."""
    if isinstance(error, LinkError):
        advice = "Is it stalled? Raise --message-timeout where a step may take that long."
        if error.late:
            return (
                f"stopped: nothing went to or came from process {error.peer} for {processes.message_timeout:.0f} s. "
                f"{advice}",
                1,
            )
        return f"stopped: process {error.peer} closed the connection ({error}).", 1
    if isinstance(error, InputError):
        return f"stopped: {error}", 2
    if isinstance(error, OSError):
        return f"stopped: {file_trouble(error)}", 1
    if isinstance(error, KeyboardInterrupt):
        return "was stopped by the user.", 130
    return f"failed: {type(error).__name__}: {first_line(error)}", 1
