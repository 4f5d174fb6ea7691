"""Every check of the project, each in a virtual environment of its own. `nox` alone runs what CI runs; see `nox -l`."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = [
    "lint",
    "docs",
    "tests-core",
    "tests-ipi",
    "tests-lammps",
    "tests-template",
    "tests-mace",
    "tests-nequip",
    "tests-matgl",
    "tests-sevennet",
    "tests-metatrain",
    "tests-chgnet",
    "tests-openmm",
    "tests-torch-sim",
    "tests-metatomic",
    "contract-table",
]
nox.options.error_on_missing_interpreters = True

FAST = ("-m", "not slow and not training")
#: Where each host's tests leave what they found of the contract.
REPORTS = Path(".nox", "contract")
#: Where it is set, each environment is removed once its session has ended: ten of them need 16 GB, one some 1.6.
DISCARD = "LES_PLUGINS_DISCARD_ENVIRONMENTS"


def in_environment(function: Callable[..., None]) -> Callable[..., None]:
    """A session that gives its disk space back where DISCARD asks for it, passed or failed."""

    @functools.wraps(function)
    def run(session: nox.Session, **parameters: str) -> None:
        try:
            function(session, **parameters)
        finally:
            if os.environ.get(DISCARD):
                shutil.rmtree(session.virtualenv.location, ignore_errors=True)

    return run


def run_on_ranks(session: nox.Session, host: str, file: str) -> None:
    """A host's models on ranks of LAMMPS, the long tests too; the sessions of the hosts run the short ones."""
    session.install("-e", f".[{host},lammps,dev]")
    session.run("pytest", "--durations=5", *(session.posargs or [f"tests/adapters/{file}"]))


def run_host_tests(session: nox.Session, host: str) -> None:
    """The fast tests of one host; all of them leave a report for the table."""
    report = () if session.posargs else ("--contract-json", str(REPORTS / f"{host}.json"))
    session.run("pytest", *FAST, *report, *(session.posargs or ["tests/adapters"]))


@nox.session
@in_environment
def lint(session: nox.Session) -> None:
    """Style, formatting, types, and which room imports which."""
    session.install("-e", ".[plot,dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports", env={"PYTHONPATH": "."})  # the source tree, not what the build maps


@nox.session
@in_environment
def docs(session: nox.Session) -> None:
    """The site, docs/_build/html: tutorials run, warnings are errors, links between pages and to files are checked."""
    _skip_before_python_3_11(session, "phonopy 4")
    session.install("-e", ".[mace,plot,phonons,chemiscope,testing,docs]")
    session.env["OMP_NUM_THREADS"] = "1"
    builder = session.posargs[0] if session.posargs else "html"
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", builder, "docs", f"docs/_build/{builder}")
    session.run("pytest", "tests/docs/test_site.py")  # formulas and what pages load need this environment


@nox.session(name="tests-core")
@in_environment
def tests_core(session: nox.Session) -> None:
    """Everything that needs no host framework, in an environment without any; e3nn and torch-pme are oracles."""
    session.install("-e", ".[plot,dev]", "e3nn>=0.5", "torch-pme>=0.5")
    session.run("pytest", *FAST, "--ignore=tests/adapters", *session.posargs)


@nox.session(name="torch-versions")
@nox.parametrize("torch", [nox.param("torch==2.4.0", id="oldest"), nox.param("torch", id="newest")])
@in_environment
def torch_versions(session: nox.Session, torch: str) -> None:
    """The core under the oldest torch that is allowed and the newest that pip finds; each downloads gigabytes."""
    session.install(torch, "-e", ".[plot,dev]", "e3nn>=0.5", "torch-pme>=0.5")
    session.run("python", "-c", "import torch; print('torch', torch.__version__)")
    session.run("pytest", *FAST, "--ignore=tests/adapters", *session.posargs)


@nox.session(name="tests-nvalchemi")
def tests_nvalchemi(session: nox.Session) -> None:
    """`method: nvalchemi`; most of its minute of processor time compiles kernels, which Warp keeps."""
    _skip_before_python_3_11(session, "nvalchemi-toolkit-ops")
    session.install("-e", ".[nvalchemi,dev]")
    session.run("pytest", "tests/electrostatics/test_nvalchemi.py", *session.posargs)


@nox.session(name="tests-phonons")
@in_environment
def tests_phonons(session: nox.Session) -> None:
    """Phonons: phonopy, no host."""
    _skip_before_python_3_11(session, "phonopy 4")
    session.install("-e", ".[phonons,plot,dev]")
    session.run("pytest", "tests/crystals/test_phonons.py", *session.posargs)


@nox.session(name="tests-ipi")
@in_environment
def tests_ipi(session: nox.Session) -> None:
    """The driver of i-PI, run by i-PI; no host."""
    session.install("-e", ".[ipi,dev]")
    session.run("pytest", "tests/engines/test_ipi.py", *session.posargs)


@nox.session(name="tests-lammps")
@in_environment
def tests_lammps(session: nox.Session) -> None:
    """LAMMPS in process and on several ranks; no host."""
    session.install("-e", ".[lammps,dev]")
    session.run("pytest", *(session.posargs or ["tests/engines", "-k", "lammps"]))


@nox.session(name="ranks-mace")
@in_environment
def ranks_mace(session: nox.Session) -> None:
    """MACE on 2 and 4 ranks of LAMMPS, and the command with models of the zoo."""
    run_on_ranks(session, "mace", "test_mace_ranks.py")


@nox.session(name="ranks-nequip")
@in_environment
def ranks_nequip(session: nox.Session) -> None:
    """NequIP and Allegro on 2 and 4 ranks of LAMMPS."""
    run_on_ranks(session, "nequip", "test_nequip_ranks.py")


@nox.session(name="ranks-sevennet")
@in_environment
def ranks_sevennet(session: nox.Session) -> None:
    """SevenNet on 2 and 4 ranks of LAMMPS, SevenNet-0 among its models."""
    run_on_ranks(session, "sevennet", "test_sevenn_ranks.py")


@nox.session(name="tests-openmm")
@in_environment
def tests_openmm(session: nox.Session) -> None:
    """OpenMM through OpenMM-ML's ASE potential, no host."""
    session.install("-e", ".[openmm,plot,dev]")
    session.run("pytest", "tests/engines/test_openmm.py", *session.posargs)


@nox.session(name="tests-torch-sim")
@in_environment
def tests_torch_sim(session: nox.Session) -> None:
    """torch-sim, its batches with MACE's."""
    _skip_before_python_3_11(session, "torch-sim")
    session.install("-e", ".[torch-sim,mace,plot,dev]")
    session.run("pytest", "tests/engines/test_torch_sim.py", *session.posargs)


@nox.session(name="tests-metatomic")
@in_environment
def tests_metatomic(session: nox.Session) -> None:
    """MACE in metatomic's file, run by metatomic's ASE calculator."""
    session.install("-e", ".[metatomic,mace,plot,dev]")
    session.run("pytest", "tests/adapters/test_mace_metatomic.py", *session.posargs)


@nox.session
@nox.parametrize("host", ["mace", "nequip"], ids=["mace", "nequip"])
@in_environment
def kernels(session: nox.Session, host: str) -> None:
    """MACE, NequIP and Allegro on cuEquivariance, with its code for CPUs; OpenEquivariance has none."""
    session.install("-e", f".[{host},plot,dev]", "cuequivariance-torch>=0.13")
    session.run("pytest", f"tests/adapters/test_{host}_accelerated.py", *session.posargs)


@nox.session(name="tests-template")
@in_environment
def tests_template(session: nox.Session) -> None:
    """The templates of adapters and of a solver, installed as distributions of third parties."""
    session.install("-e", ".[testing]")
    for name in ("adapter_template", "force_template", "solver_template"):
        copy = f"{session.create_tmp()}/{name}"
        shutil.copytree(f"examples/{name}", copy, dirs_exist_ok=True)  # the build leaves files in it
        session.install("--no-deps", copy)
        session.run("pytest", f"examples/{name}/tests", *session.posargs)
    session.run("les-plugins", "check", "tiny_schnet")


@nox.session(name="tests-mace")
@in_environment
def tests_mace(session: nox.Session) -> None:
    """The MACE adapter, on two ranks of LAMMPS too."""
    session.install("-e", ".[mace,lammps,plot,dev]")
    run_host_tests(session, "mace")


@nox.session(name="tests-nequip")
@in_environment
def tests_nequip(session: nox.Session) -> None:
    """The adapter of NequIP and Allegro, in an environment of its own: they need another e3nn than MACE."""
    session.install("-e", ".[nequip,lammps,plot,dev]", "scipy")
    run_host_tests(session, "nequip")


@nox.session(name="contract-table", venv_backend="none")
def contract_table(session: nox.Session) -> None:
    """docs/reference/contract.md, hosts and laws, from what the sessions of the hosts left behind."""
    reports = sorted(str(path) for path in REPORTS.glob("*.json"))
    if not reports:
        session.skip("no host's tests have run")
    with Path("docs", "reference", "contract.md").open("w", encoding="utf-8") as page:
        session.run("python3", "benchmarks/contract_table.py", *reports, stdout=page, external=True)
    session.log("docs/reference/contract.md: " + ", ".join(Path(report).stem for report in reports))


@nox.session(name="tests-sevennet")
@in_environment
def tests_sevennet(session: nox.Session) -> None:
    """The SevenNet adapter, on two ranks of LAMMPS too."""
    session.install("-e", ".[sevennet,lammps,plot,dev]")
    run_host_tests(session, "sevennet")


@nox.session(name="tests-chgnet")
@in_environment
def tests_chgnet(session: nox.Session) -> None:
    """The CHGNet adapter, with the weights that the package holds."""
    session.install("-e", ".[chgnet,plot,dev]")
    run_host_tests(session, "chgnet")


@nox.session(name="tests-matgl")
@in_environment
def tests_matgl(session: nox.Session) -> None:
    """The MatGL adapter: TensorNet and M3GNet."""
    _skip_before_python_3_11(session)
    session.install("-e", ".[matgl,plot,dev]")
    run_host_tests(session, "matgl")


@nox.session(name="tests-metatrain")
@in_environment
def tests_metatrain(session: nox.Session) -> None:
    """The metatrain adapter: PET and SOAP-BPNN."""
    session.install("-e", ".[metatrain,plot,dev]", "torch-pme>=0.5")  # of metatrain's own long_range
    run_host_tests(session, "metatrain")


@nox.session
@in_environment
def slow(session: nox.Session) -> None:
    """Tests marked slow, of the core and of the MACE adapter."""
    session.install("-e", ".[mace,plot,dev]")
    elsewhere = ("--deselect=tests/adapters/test_mace_zoo.py", "--ignore=tests/fuzz")  # sessions of their own
    session.run("pytest", "-m", "slow", *elsewhere, *session.posargs, success_codes=[0, 5])  # 5: no test is marked so


@nox.session
@in_environment
def fuzz(session: nox.Session) -> None:
    """Thousands of damaged or random inputs, from fixed seeds: right numbers or one of our errors, in bounded time."""
    session.install("-e", ".[mace,plot,dev]")
    session.run("pytest", "-m", "slow", *(session.posargs or ["tests/fuzz"]))


@nox.session(name="zoo-mace")
@in_environment
def zoo_mace(session: nox.Session) -> None:
    """The zoo's models of MACE: stored predictions, invariances, cards, and two picoseconds of each."""
    session.install("-e", ".[mace,plot,dev]")
    session.run("pytest", "tests/adapters/test_mace_zoo.py", *session.posargs)


@nox.session(name="zoo-nequip")
@in_environment
def zoo_nequip(session: nox.Session) -> None:
    """The zoo's models of NequIP, likewise."""
    session.install("-e", ".[nequip,plot,dev]")
    session.run("pytest", "tests/adapters/test_nequip_zoo.py", *session.posargs)


@nox.session
@in_environment
def training(session: nox.Session) -> None:
    """Tests marked training: tiny trainings through the command line."""
    session.install("-e", ".[mace,plot,dev]")
    session.run("pytest", "-m", "training", *session.posargs)


@nox.session(name="training-nequip")
@in_environment
def training_nequip(session: nox.Session) -> None:
    """Tests marked training of the NequIP adapter: tiny trainings with `nequip-train`, packages, command line."""
    session.install("-e", ".[nequip,plot,dev]", "scipy")
    session.run("pytest", "-m", "training", *(session.posargs or ["tests/adapters"]))


@nox.session(name="training-sevennet")
@in_environment
def training_sevennet(session: nox.Session) -> None:
    """Tests marked training of the SevenNet adapter: longer trainings, restarts, pretrained models, command line."""
    session.install("-e", ".[sevennet,plot,dev]")
    session.run("pytest", "-m", "training", *(session.posargs or ["tests/adapters"]))


@nox.session(name="training-matgl")
@in_environment
def training_matgl(session: nox.Session) -> None:
    """Tests marked training of the MatGL adapter: tiny trainings with MatGL's trainer, `mgl train`, command line."""
    _skip_before_python_3_11(session)
    session.install("-e", ".[matgl,plot,dev]")
    session.run("pytest", "-m", "training", *(session.posargs or ["tests/adapters"]))


@nox.session
@in_environment
def e3nn(session: nox.Session) -> None:
    """A checkpoint saved under one e3nn (0.4, 0.6) gives the same numbers under the other."""
    session.install("-e", ".[mace,plot,dev]")
    script, folder = "tests/adapters/e3nn_versions.py", session.create_tmp()
    session.run("python", script, "save", f"{folder}/saved-under-0.4")
    session.install("--no-deps", "e3nn>=0.6,<0.7")
    session.run("python", script, "compare", f"{folder}/saved-under-0.4")
    session.run("python", script, "save", f"{folder}/saved-under-0.6")
    session.install("--no-deps", "e3nn==0.4.4")
    session.run("python", script, "compare", f"{folder}/saved-under-0.6")


def _skip_before_python_3_11(session: nox.Session, what: str = "MatGL 4.1") -> None:
    if sys.version_info < (3, 11):
        session.skip(f"{what} needs Python 3.11 or newer")
