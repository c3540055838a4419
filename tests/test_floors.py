"""The house stands: a file imports only from the floors below it, and what must be light is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nearfar

SRC = Path(nearfar.__file__).parent
FLOORS = (
    ("types", "errors", "files"),
    ("similarity", "losses", "metrics"),
    ("data", "encoders", "index"),
    ("embedding", "retrieval", "mining", "training", "evaluation", "exporting", "auditing"),
    ("report", "recipes", "cli"),
)
ON_ONE_FLOOR = {
    ("types", "errors"),
    ("files", "errors"),
    ("losses", "similarity"),
    ("encoders", "data"),
    ("retrieval", "embedding"),
    ("training", "embedding"),
    ("evaluation", "embedding"),
    ("training", "evaluation"),
    ("exporting", "embedding"),
    ("training", "exporting"),
    ("mining", "embedding"),
    ("training", "mining"),
    ("auditing", "embedding"),
    ("cli", "report"),
    ("cli", "recipes"),
}
"""(who, whom), as DESIGN.md lists them."""
OPEN = {"__init__", "__main__"}
"""The package's own front doors: they name everything and hold nothing."""


def room(path):
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def floor(name):
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def imported(path):
    """(line, the room imported) of every import of ours, those inside functions and type checking included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides its floor"
            whole = node.module == "nearfar"
            names = [f"nearfar.{alias.name}" for alias in node.names if alias.name != "__version__"] if whole else [node.module]
        else:
            continue
        for name in names:
            parts = str(name).split(".")
            if parts[0] == "nearfar" and len(parts) > 1:
                yield node.lineno, parts[1]


def arrows(root=SRC):
    found = []
    for path in sorted(root.rglob("*.py")):
        here = room(path) if root is SRC else path.stem
        if here in OPEN:
            continue
        for line, there in imported(path):
            if there != here and (here, there) not in ON_ONE_FLOOR and floor(there) >= floor(here):
                found.append(f"{path}:{line}: {here} imports {there}")
    return found


def test_no_arrow_points_upward():
    assert arrows() == []


def test_an_upward_arrow_would_be_found(tmp_path):
    (tmp_path / "losses.py").write_text("def f():\n    from nearfar.training import train\n    return train\n")
    assert [line.partition(": ")[2] for line in arrows(tmp_path)] == ["losses imports training"]


def test_every_room_has_a_floor_and_every_floor_is_real():
    rooms = {room(path) for path in SRC.rglob("*.py")} - OPEN
    assert rooms == {name for names in FLOORS for name in names}


def test_nobody_imports_the_command_line():
    for path in SRC.rglob("*.py"):
        if room(path) not in {"cli"} | OPEN:
            assert "cli" not in {there for _, there in imported(path)}, path


@pytest.mark.parametrize(
    "code", ["import nearfar; nearfar.NearfarError; nearfar.Pair", "from nearfar.cli import main; main(['--help'])"]
)
def test_the_door_is_light(code):
    heavy = "{'torch', 'numpy', 'transformers', 'tokenizers', 'pyarrow', 'pydantic', 'scipy', 'usearch'}"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('heavy:', sorted({heavy} & set(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_every_public_name_is_there_and_documented():
    for name in nearfar.__all__:
        found = getattr(nearfar, name)
        assert name == "RowLoss" or (found.__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = nearfar.nonsense


def test_public_names_stay_what_they_are_once_everything_is_loaded():
    """A package and a function of one name would hide each other, depending on what was imported first."""
    modules = {path.stem if path.suffix else path.name for path in SRC.iterdir()}
    assert modules & set(nearfar.__all__) == {"losses", "metrics"}


def test_every_loss_is_a_function_and_no_module_hides_one():
    import nearfar.losses

    assert [name for name in nearfar.losses.__all__ if not callable(getattr(nearfar.losses, name))] == []


def test_the_source_is_clean():
    """Nothing unpickled, no note to self, no file grown beyond reading."""
    for path in SRC.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 450, path
        for word in ("import pickle", "allow_pickle=True", "weights_only=False", "TODO", "FIXME"):
            assert word not in text, f"{path}: {word}"
