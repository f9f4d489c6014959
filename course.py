"""From Bytes to Chat: the one entry point. Standard library only, so that it runs before anything is installed.

python3 course.py lab              make .venv, install, open JupyterLab at the table of contents
python3 course.py test [ch02 ...]  everything CI runs, or one chapter's share of it
python3 course.py --help           all commands
"""

import sys

if sys.version_info < (3, 11):  # this file has to be readable by older Pythons down to here
    sys.exit(
        "This course needs Python 3.11 or newer; this is %d.%d. Install one from python.org, then run: python3.12 course.py lab"
        % sys.version_info[:2]
    )

import argparse
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent
REPOSITORY = "https://github.com/from-bytes-to-chat/from-bytes-to-chat"  # after a change: python course.py export


def setup(folder: str = "") -> None:  # a SyntaxError in this line? Then this is Python 2; install 3.11 or newer from python.org
    """Prepare a notebook or script of the course.

    `folder` is where the notebook lives, relative to the root. Makes the root, that folder and its chapter's main code importable;
    points tiktoken at the GPT-2 vocabulary that the course brings, unless `TIKTOKEN_CACHE_DIR` is set already; on Colab installs
    the packages that are missing, and neither torch nor numpy.
    """
    from tools import environment, headers, vocabulary

    folders = ["", folder, headers.main_folder(folder.split("/")[0])] if folder else [""]
    wanted = list(dict.fromkeys(str(ROOT / path) for path in folders))
    sys.path[:] = wanted + [path for path in sys.path if path not in wanted]
    if "google.colab" in sys.modules:
        environment.install_missing(keep=("torch", "numpy"), without=("jupyterlab", "ipykernel", "nbval"))
    vocabulary.use_bundled_gpt2()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="course.py", description="From Bytes to Chat: read it, run it, prove it.")
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, text, *arguments):
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        for flags, options in arguments:
            sub.add_argument(*flags, **options)

    chapters = (["chapters"], {"nargs": "*", "metavar": "chNN", "help": "chapters or notebooks; all of them if none is named"})
    check = (["--check"], {"action": "store_true", "help": "write nothing; fail if anything would change"})
    add(
        "lab",
        "install what is needed the first time, then open JupyterLab at the table of contents",
        (["--port"], {"type": int, "default": 8888, "help": "the port to serve on (8888; the next free one if it is taken)"}),
        (["--no-browser"], {"action": "store_true", "help": "print the address instead of opening a browser"}),
    )
    add("run", "execute chapters headless, keep the executed copies in runs/ and say what each achieved", chapters)
    add(
        "test",
        "everything that CI runs: generated files, lint, every notebook under strict nbval, all tests",
        chapters,
        (["--quick"], {"action": "store_true", "help": "under five minutes: leave out slow tests and long notebooks"}),
        (["--full"], {"action": "store_true", "help": "add the long tests"}),
    )
    add(
        "bench",
        "speed beside a reference implementation, interleaved in one run",
        (["names"], {"nargs": "*", "metavar": "NAME", "help": "which benchmarks: gpt, train, generate, ...; all if none is named"}),
    )
    add("export", "write chNN.py, previous_chapters.py, summaries, headers and setup cells from the notebooks", check)
    add("figures", "draw every SVG figure again", check)
    add("doctor", "say in plain words what is wrong with this machine's set-up", (["--port"], {"type": int, "default": 8888}))
    add(
        "reset",
        "put a chapter back as it came, and keep your changed copy aside",
        (["chapters"], {"nargs": "+", "metavar": "chNN"}),
    )
    add(
        "execute",
        "for authors: run notebooks in a clean kernel and store their outputs in place",
        chapters,
        (["--fresh"], {"action": "store_true", "help": "replace pictures and sampled text too, and measure again"}),
    )
    add(
        "colab",
        "for the workflow: write copies of all notebooks with their images inlined",
        (["folder"], {"help": "where to write them"}),
    )
    return p


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    from tools import environment

    if options.command in ("export", "figures", "doctor", "reset", "colab"):  # standard library only
        return run_here(options)
    dev = options.command in ("test", "execute", "bench")
    python = environment.python_with(dev)
    if Path(python) != Path(sys.executable):
        return environment.call([python, str(ROOT / "course.py"), *(sys.argv[1:] if arguments is None else arguments)])
    return run_installed(options)


def run_here(options: argparse.Namespace) -> int:
    """The commands that need nothing installed."""
    if options.command == "export":
        from tools import export

        return export.main(options.check)
    if options.command == "figures":
        from tools import figures

        return figures.main(options.check)
    if options.command == "doctor":
        from tools import doctor

        return doctor.main(options.port)
    if options.command == "reset":
        from tools import attempts

        return attempts.reset(options.chapters)
    from tools import colab

    return colab.main(Path(options.folder))


def run_installed(options: argparse.Namespace) -> int:
    """The commands that need the packages; this process has them."""
    if options.command == "lab":
        from tools import lab

        return lab.main(options.port, options.no_browser)
    if options.command == "bench":
        from tools import bench

        return bench.main(options.names)
    from tools import notebooks

    try:
        paths = notebooks.chosen(options.chapters)
    except ValueError as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 2
    if options.command == "test":
        from tools import suite

        return suite.main(paths, not options.chapters, options.quick, options.full)
    if options.command == "run":
        return notebooks.run(paths, options.chapters)
    return notebooks.execute(paths, options.fresh)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUTF8", "1")
    sys.exit(main())
