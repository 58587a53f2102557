"""Connections: what listens where, encryption, SLURM jobs, files that describe processes."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from napari_autorefine.cluster import connect
from napari_autorefine.cluster.connect import Certificates, connected, started
from napari_autorefine.cluster.crew import DaskCrew
from napari_autorefine.cluster.description import ClusterDescription, read_description
from napari_autorefine.errors import InputError


@pytest.fixture(autouse=True)
def has_distributed() -> None:
    pytest.importorskip("distributed", reason="distributed is not installed")


def listening() -> set[str]:
    """Addresses at which this process and its children listen."""
    here = psutil.Process()
    found = set()
    for process in (here, *here.children(recursive=True)):
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.add(connection.laddr.ip)
    return found


def test_nothing_listens_beyond_this_computer_and_connections_are_encrypted_when_asked(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="cryptography is not installed")
    before = listening()
    with started(ClusterDescription(kind="local", n_workers=1, tls=True)) as client:
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        assert all(address.startswith("tls://127.0.0.1:") for address in client.nthreads())
        assert listening() - before <= {"127.0.0.1"}
        assert client.dashboard_link is None or "127.0.0.1" in client.dashboard_link
        with pytest.raises(InputError, match="certificates"), connected(client.scheduler.address, Certificates()):
            pass
        for name, text in client.security.get_tls_config_for_role("client").items():
            (tmp_path / f"{name}.pem").write_text(text or "")
        ours = Certificates(
            **{
                ours: str(tmp_path / f"{theirs}.pem")
                for ours, theirs in (("ca", "ca_file"), ("certificate", "cert"), ("key", "key"))
            }
        )
        with connected(client.scheduler.address, ours) as other:
            assert other.nthreads() == client.nthreads()
        plain = connected(client.scheduler.address.replace("tls", "tcp"), Certificates())
        with pytest.raises(InputError, match="no scheduler that answers"), plain:  # there is no way in
            pass
    assert listening() == before


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "_CONNECT_S", 1.0)


@pytest.mark.parametrize(
    ("address", "certificates", "words"),
    [
        ("tcp://127.0.0.1:9", Certificates(), "There is no scheduler that answers at tcp://127.0.0.1:9"),
        ("127.0.0.1:9", Certificates(), "is not an address such as tcp://"),
        ("http://127.0.0.1:9", Certificates(), "is not an address such as tcp://"),
        ("tls://127.0.0.1:9", Certificates(), "needs certificates: --tls_ca, --tls_cert, --tls_key are missing"),
        ("tls://127.0.0.1:9", Certificates(ca="no.pem"), "--tls_ca no.pem does not exist"),
        ("tcp://127.0.0.1:9", Certificates(ca="no.pem"), "for encrypted addresses"),
        ("tcp://", Certificates(), "There is no scheduler that answers"),
        ("tcp://no such host:1", Certificates(), "There is no scheduler that answers"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_sentence(
    quick: None, address: str, certificates: Certificates, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught, connected(address, certificates):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: local", "n_workers: field required"),
        ("kind: lokal\nn_workers: 2", "kind: input should be 'local' or 'slurm'"),
        ("kind: local\nn_worker: 2", "'n_worker' is not an entry of a cluster file; did you mean n_workers"),
        ("kind: local\nn_workers: 0", "n_workers: input should be greater than or equal to 1"),
        ("kind: local\nn_workers: many", "n_workers: input should be a valid integer"),
        ("kind: slurm\nn_workers: 2", "needs memory"),
        ("kind: slurm\nn_workers: 2\nmemory: 8GB", "nothing listens beyond this computer unless it is named"),
        ("kind: [local\nn_workers: 2", "line 2: neither YAML nor JSON"),
        ("- local", "holds no entries"),
        ("", "holds no entries"),
        ("!!python/object/apply:os.system ['true']", "neither YAML nor JSON"),
    ],
)
def test_what_is_wrong_with_a_cluster_file_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_description(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_cluster_files_are_yaml_or_json(tmp_path: Path) -> None:
    values = {"kind": "slurm", "n_workers": 8, "cores": 16, "memory": "64GB", "interface": "ib0"}
    (tmp_path / "a.json").write_text(json.dumps(values))
    (tmp_path / "a.yaml").write_text("\n".join(f"{name}: {value}" for name, value in values.items()))
    first, second = (read_description(str(tmp_path / name)) for name in ("a.json", "a.yaml"))
    assert first.model_dump(exclude={"source"}) == second.model_dump(exclude={"source"})
    assert first.cores == 16 and first.interface == "ib0"


SBATCH = """#!{python}
import subprocess, sys
script = sys.argv[-1]
text = open(script).read()
open({log!r}, "a").write(text)
job = subprocess.Popen(["bash", "-c", text], stdin=subprocess.DEVNULL, stdout=open({out!r}, "ab"),
                       stderr=subprocess.STDOUT, start_new_session=True)
print(f"Submitted batch job {{job.pid}}")
"""
SCANCEL = """#!{python}
import os, signal, sys
for word in sys.argv[1:]:
    try:
        os.killpg(int(word), signal.SIGTERM)
    except (ProcessLookupError, ValueError):
        pass
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Programs sbatch and scancel that run jobs on this computer; gives the file of submitted scripts."""
    for package in ("dask_jobqueue", "cryptography"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    log, out = tmp_path / "submitted.txt", tmp_path / "jobs.log"
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text.format(python=sys.executable, log=str(log), out=str(out)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    source = Path(__file__).resolve().parents[2] / "src"
    monkeypatch.setenv("PYTHONPATH", f"{source}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.chdir(tmp_path)
    yield log
    if out.exists():
        sys.stdout.write(out.read_text())


@pytest.mark.skipif("lo" not in psutil.net_if_addrs(), reason="the loopback interface has another name")
def test_slurm_jobs_join(slurm: Path) -> None:
    description = ClusterDescription(
        kind="slurm", n_workers=1, cores=2, memory="2GB", queue="long", interface="lo", directives=("--gres=gpu:1",),
        prologue=("export STARTED=yes",), tls=True,
    )  # fmt: skip
    with started(description) as client:
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        crew = DaskCrew(client, patience_s=60.0, n_wanted=1)
        list(crew.greet(lambda indices: indices, 4))
        (member,) = crew.pool.members
        assert member.address.startswith("tls://127.0.0.1:")
        (folder,) = slurm.parent.glob(".autorefine_tls_*")
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
        assert member.contract.threads == 2 and not member.greeting.is_shared
        assert client.run(os.getenv, "STARTED") == {member.address: "yes"}

        def settings() -> tuple[object, ...]:
            import dask

            names = ("worker.http.routes", "admin.tick.interval", "worker.memory.terminate")
            return tuple(dask.config.get(f"distributed.{name}") for name in names)

        assert client.run(settings) == {member.address: ([], "1s", False)}
        crew.close()
    assert not list(slurm.parent.glob(".*"))  # certificates are removed
    script = slurm.read_text()
    for line in ("#SBATCH --gres=gpu:1", "#SBATCH -p long", "#SBATCH --cpus-per-task=2", "export STARTED=yes"):
        assert line in script
    assert "TERMINATE='False'" in script and "--nthreads 2" in script


def test_without_slurm_its_jobs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    monkeypatch.setenv("PATH", "")
    description = ClusterDescription(kind="slurm", n_workers=1, memory="2GB", interface="lo", source="c.yaml")
    words = r"c\.yaml: kind is slurm, but this computer has no program sbatch"
    with pytest.raises(InputError, match=words), started(description):
        pass


def test_without_dask_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect.importlib.util, "find_spec", lambda _: None)
    nobody = connected("tcp://127.0.0.1:1", Certificates())
    with pytest.raises(InputError, match=r"pip install napari-autorefine\[cluster\]"), nobody:
        pass
