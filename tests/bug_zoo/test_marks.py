"""What stales the result of a case, and what does not."""

from tests.bug_zoo import marks


def test_a_case_depends_on_its_own_module_and_its_helpers_alone():
    files = marks.used("held_out_classifier")
    assert {"tests/bug_zoo/held_out_classifier.py", "tests/bug_zoo/bugs_classifier.py"} <= set(
        files
    )
    assert {"tests/bug_zoo/pipeline.py", "tests/seriatim/engine/support.py"} <= set(files)
    assert "seriatim/engine/trainer.py" in files and "dataset_tools/errors.py" in files
    others = {"bugs_data.py", "registry.py", "report.py", "runner.py"}
    assert not {f"tests/bug_zoo/{name}" for name in others} & set(files)


def test_plain_training_depends_on_no_gate():
    import seriatim.gates.oracle  # noqa: F401 (so that there is one to leave out)

    assert any("gates/oracle" in name for name in marks.used("bugs_data"))
    assert not any(
        name.startswith("seriatim/gates") for name in marks.used("bugs_data", gates=False)
    )


def test_a_changed_file_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(marks, "ROOT", tmp_path)
    (tmp_path / "a.py").write_text("1")
    known = {"a.py": marks._hash(tmp_path / "a.py")}
    assert marks.unchanged(known)
    marks._hash.cache_clear()
    (tmp_path / "a.py").write_text("2")
    assert not marks.unchanged(known)
    assert not marks.unchanged({"gone.py": "1"})
