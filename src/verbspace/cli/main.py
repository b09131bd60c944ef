"""The `verbspace` program: its commands, exit codes and error messages.

Heavy imports are inside the commands, so that `--help` is fast.
"""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
from typing import Annotated

import typer

from verbspace.cli import adapt, concepts, data, demo, evaluate, export, predict, reproduce, search
from verbspace.cli import app as app_command
from verbspace.cli.strict import make_strict

EXIT_SIGPIPE = 141  # the exit code of a program that SIGPIPE terminates
EXIT_RESUMABLE = 75  # a run was interrupted and can be resumed (EX_TEMPFAIL of sysexits.h)

app = typer.Typer(
    name="verbspace",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help without rich starts twice as fast
)
app.add_typer(concepts.app, name="concepts")
app.add_typer(data.app, name="data")
for module in (demo, adapt, evaluate, reproduce, predict, app_command, search, export):
    app.add_typer(module.app)
make_strict(app)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"verbspace {version('verbspace')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Teach an image CLIP to understand actions in video, without labels."""
    from verbspace.utils.malloc import disable_malloc_trim

    disable_malloc_trim()


def _exit_on_sigterm() -> None:
    """Let SIGTERM clean up as Ctrl-C does. Workers that are forked later end at once."""
    main_process = os.getpid()

    def handle(number: int, frame: object) -> None:
        if os.getpid() == main_process:
            raise KeyboardInterrupt("terminated")
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, handle)


def main() -> None:
    """Run the program. Errors that a user can fix are one sentence on standard error, without a traceback."""
    from verbspace.cli.console.terminal import configure_logging, encode_fallback, format_os_error, print_error

    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error("verbspace", encode_fallback)
        sys.stdout.reconfigure(errors="verbspace")
    configure_logging()
    command = typer.main.get_command(app)
    try:
        _exit_on_sigterm()
        # Not app(): it would turn Ctrl-C into an exit code of its own and drop the message of the exception.
        with command.make_context("verbspace", sys.argv[1:]) as context:
            command.invoke(context)
    except SystemExit as exit_request:
        pipe_closed = isinstance(exit_request.__context__, BrokenPipeError)  # rich exits with 1 in this case
        sys.exit(EXIT_SIGPIPE if pipe_closed else exit_request.code)
    except BrokenPipeError:  # the reader has closed the pipe, as in `verbspace predict … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # otherwise flushing at exit would fail again
        sys.exit(EXIT_SIGPIPE)
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "stopped", file=sys.stderr)
        sys.exit(EXIT_RESUMABLE)
    except typer.Exit as exit_request:
        sys.exit(exit_request.exit_code)
    except (ValueError, OSError, RuntimeError) as error:
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        process = f", process {os.environ.get('RANK')} of {world_size}" if world_size > 1 else ""
        print_error(format_os_error(error), f"error{process}")
        if world_size > 1:
            os._exit(1)  # a regular exit would wait for the other processes, which wait for this one
        sys.exit(1)
    except Exception as error:
        if not hasattr(error, "show"):
            raise
        error.show()  # a usage error of click, which prints itself
        sys.exit(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()
