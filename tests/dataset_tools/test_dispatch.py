"""A program of several commands: help, hints, and options that follow from what is asked for."""

import sys
import types

import pytest

from dataset_tools.dispatch import CommandLine
from dataset_tools.errors import EXIT_BAD_INPUT

HEAVY_MODULE = "a_module_that_is_not_there"


@pytest.fixture
def program(monkeypatch):
    module = types.ModuleType("greeting", "Greet somebody.\n\nMore that help does not say.")
    module.EPILOG = "example:\n  greet greet Ann"
    module.add_arguments = lambda parser: parser.add_argument("names", nargs="+")
    module.add_more_arguments = lambda parser, argv: parser.add_argument(f"--{argv[0].lower()}")
    module.run = lambda args: print(args) or 3
    monkeypatch.setitem(sys.modules, "greeting", module)
    commands = {"greet": ("greeting", "say hello"), "farewell": (HEAVY_MODULE, "say goodbye")}
    return CommandLine("greet", "Be polite.", commands, "example:\n  greet greet Ann\n")


def test_a_command_gets_its_arguments_in_any_order(program, capsys):
    assert program.main(["greet", "Ann", "--ann", "x", "Bob"]) == 3
    assert capsys.readouterr().out == "Namespace(ann='x', names=['Ann', 'Bob'])\n"


def test_help_of_all_and_of_one(program, capsys):
    for arguments in ([], ["-h"], ["--help"]):
        with pytest.raises(SystemExit) as stopped:
            program.main(arguments)
        assert stopped.value.code == 0
        told = capsys.readouterr().out
        assert "Be polite." in told and "  greet     say hello\n  farewell  say goodbye\n" in told
    with pytest.raises(SystemExit):
        program.main(["greet", "--help"])
    told = capsys.readouterr().out
    assert "Greet somebody." in told and "More that" not in told and "greet greet Ann" in told


def test_what_is_not_there(program, capsys):
    assert program.main(["gret"]) == EXIT_BAD_INPUT
    assert "Did you mean 'greet'" in capsys.readouterr().err
    assert program.main(["xyz"]) == EXIT_BAD_INPUT
    assert "There are: greet, farewell." in capsys.readouterr().err
    # A package that is not installed is told as such.
    assert program.main(["farewell"]) == EXIT_BAD_INPUT
    assert "seriatim.doctor" in capsys.readouterr().err
