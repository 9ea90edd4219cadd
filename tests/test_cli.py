from __future__ import annotations

from pathlib import Path

from cli import genisp, prep
from tests.commands.invoke import run, shell
from tests.kit.fresh_process import run_python


def test_the_three_commands_of_the_readme(tmp_path: Path) -> None:
    for command in (
        ["sample", "nod", "--images", "4"],
        ["ingest", "nod"],
        ["verify"],
        ["info"],
    ):
        done = shell(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    assert "4 samples" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom cli import prep\n"
        "try: prep(sys.argv[1:], prog_name='prep')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'zarr', 'dask', 'distributed', 'rawpy', 'flashraw', 'numba',"
        " 'numpy', 'pydantic') if m in sys.modules])"
    )
    for arguments in (["--help"], ["ingest", "--help"], ["verify", "--help"], ["--version"]):
        assert run_python(code, *arguments).splitlines()[-1] == "[]"


def test_every_help_has_an_example_and_the_exit_codes() -> None:
    for name in prep.commands:
        text = run(name, "--help").stdout
        assert "Example: prep " in text, name
        assert "130  interrupted" in text, name


#: Modules of commands/ that are no command.
_SHARED = {"__init__", "config_file", "exits", "options", "output"}


def test_every_module_of_commands_is_a_command_of_its_name() -> None:
    modules = {path.stem for path in (Path(__file__).parents[1] / "commands").glob("*.py")}
    assert modules - _SHARED == {*prep.commands, *genisp.commands}
    for name, command in (*prep.commands.items(), *genisp.commands.items()):
        assert command.callback is not None
        assert command.callback.__module__ == f"commands.{name}"
