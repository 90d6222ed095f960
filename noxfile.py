# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.2.9", "pyyaml"]
# ///
"""Run one with `nox -s NAME`. docs/matrix.md says what each compares, and docs/quick-start.md how to read what it prints."""

# Sessions install, then call. Those per layout come from ci/matrix.yaml. The header above has nox make an environment with
# PyYAML and start itself again there, so that `pip install nox` is all that a machine needs.

from __future__ import annotations

import atexit
import itertools
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import MappingProxyType

import nox
from nox.command import CommandFailed

sys.path.insert(0, str(Path(__file__).parent))

from ci import names, uv, wheels
from ci.releases import LIBRARIES, RELEASES, Release, groups, other_than_for
from ci.table import Row, rows
from validation.case.errors import ExitCode

nox.needs_version = ">=2025.2.9"  # script mode
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["parity", "tests"]

_exit_codes: list[int] = []
_LAST_MINOR = 15
"""Of the Pythons that a release of megatron-core may ask for."""
_SILENCE = 4.0
"""Seconds after which a line says that an installation goes on."""


@atexit.register
def _end_with_the_code_of_the_session() -> None:
    """Nox ends with 1 for every failure; whoever started it needs to know a wrong number from a missing GPU.

    Of several codes the smallest: 1 (a check failed) outweighs 4 (the run broke, may be tried again). Every command of a
    session goes through `_run`, so that no failure is missing here.
    """
    if _exit_codes:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(min(_exit_codes))


def _run(
    session: nox.Session,
    *command: str,
    failing: ExitCode | None = None,
    passing: Sequence[int] = (ExitCode.PASS,),
    env: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Run the command; if it fails, nox ends with `failing`, or with the code of the command itself.

    It fails with every code that is not one of `passing`. A code that is none of ours is the operating system's: the
    process was killed.
    """
    try:
        # `python -m` finds our packages in the working folder, where Python does not look if the variable says something.
        session.run(*command, external=True, success_codes=passing, env={"PYTHONSAFEPATH": "", **env})
    except CommandFailed as error:
        code = failing or error.return_code
        _exit_codes.append(code if code in list(ExitCode) else ExitCode.INFRASTRUCTURE)
        raise


def _environment(session: nox.Session, name: str, *requirements: str) -> str:
    """The interpreter that $PLUMBLINE_PYTHON names, as it is, or that of an environment with these requirements files.

    A machine that has been prepared (an image, a runner without a network) is not to be installed to.
    """
    prepared = os.environ.get("PLUMBLINE_PYTHON")
    if not prepared:
        return _installed(session, name, *requirements)
    if shutil.which(prepared) is None:
        _exit_codes.append(ExitCode.ENVIRONMENT)
        session.error(f"PLUMBLINE_PYTHON is {prepared}, which is no program here; name a Python, or unset it to have one made")
    session.log(f"takes {prepared} as it is: PLUMBLINE_PYTHON is set, so nothing is installed")
    return prepared


def _installed(session: nox.Session, name: str, *requirements: str) -> str:
    """The interpreter of an environment with these requirements files, shared by all sessions that name it.

    torch alone takes more room and time than all the rest: nox's own environments, one a session, would hold it ten times.
    GPU sessions see the machine's packages, so that an image that ships a CUDA build of torch is not given another.
    """
    folder = Path(".nox") / name
    python = folder / "bin" / "python"
    if not python.exists():
        see_all = ["--system-site-packages"] if name == "cuda" else []
        _virtualenv(session, *see_all, str(folder))
    files = [word for file in requirements for word in ("-r", f"requirements/{file}.txt")]
    # uv would install what a GPU environment sees of the machine once more.
    if name == "cuda" or not _by_uv(session, str(python), *files):
        _pip(session, str(python), *files)
    return str(python)


def _by_uv(session: nox.Session, python: str, *words: str) -> bool:
    """Whether uv has installed it, with the settings that pip has: it takes a fraction of the time (benchmarks/README.md)."""
    if shutil.which("uv") is None or os.environ.get("PLUMBLINE_INSTALLER") == "pip":
        return False
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    try:
        settings = uv.settings(listed.stdout)
    except uv.NotTheSame as error:
        session.log(f"pip installs, though uv is here: uv has no equal of pip's setting {error}")
        return False
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = ("uv", "pip", "install", "--python", python, *quiet, *settings.words, *words)
    try:
        with nullcontext() if sys.stdout.isatty() else _telling(session, "uv pip install"):
            session.run(*command, external=True, env=dict(settings.variables))
    except CommandFailed:
        session.log("uv could not install it: pip tries")
        return False
    return True


def _pip(session: nox.Session, python: str, *words: str) -> None:
    """`pip install`. In a terminal pip shows its progress; elsewhere a line every few seconds says how long it has taken."""
    in_terminal = sys.stdout.isatty()
    quiet = [] if in_terminal else ["--quiet"]
    with nullcontext() if in_terminal else _telling(session, "pip install"):
        _run(session, python, "-m", "pip", "install", *quiet, *words, failing=ExitCode.INFRASTRUCTURE)


@contextmanager
def _telling(session: nox.Session, what: str) -> Iterator[None]:
    """Within it a thread says how long it has taken, so that nobody takes it for hung."""
    ended, start = threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(_SILENCE):
            session.log(f"{what}: {time.monotonic() - start:.0f} s ...")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _virtualenv(session: nox.Session, *words: str) -> None:
    """Make an environment."""
    with _telling(session, "virtualenv"):
        _run(session, sys.executable, "-m", "virtualenv", "--quiet", *words, failing=ExitCode.INFRASTRUCTURE)


def _validate(session: nox.Session, python: str, row: Row) -> None:
    """Run `python -m validation`; the session, and nox, end with its exit code.

    In CI it is tried twice where the infrastructure breaks, and what the first attempt left is kept (ci/attempts.py).
    """
    in_ci = os.environ.get("CI", "").lower() in ("true", "1")
    front = ("ci", "attempts", "--up-to", "2", "--") if in_ci else ("validation",)
    _run(session, python, "-m", *front, *row.command(), *session.posargs, env={names.VARIABLE: row.session})


@contextmanager
def _leaving_no_old_results(session: nox.Session, row: Row) -> Iterator[None]:
    """If the session ends here, before it compares anything, results of an earlier one are not in its place."""
    try:
        yield
    except BaseException:
        with suppress(ImportError):  # a copy of the table alone compares nothing
            from validation.checks import unstarted
            from validation.checks.before import ASIDE

            unstarted.ended([*row.arguments()[1:], *session.posargs])
            if said := ASIDE.told():
                session.log(said)
        raise


def _cpu_session(row: Row) -> Callable[[nox.Session], None]:
    def body(session: nox.Session) -> None:
        with _leaving_no_old_results(session, row):
            python = _environment(session, "cpu", "cpu")
        _validate(session, python, row)

    return body


def _gpu_session(row: Row) -> Callable[[nox.Session], None]:
    def body(session: nox.Session) -> None:
        with _leaving_no_old_results(session, row):
            # Before several gigabytes are installed for it.
            if not _driver():
                _exit_codes.append(ExitCode.ENVIRONMENT)
                needed = _needed(row.gpus, session.posargs)
                session.error(f"no NVIDIA driver on this machine, and {row.session} needs {needed}; {_on_the_cpu(row)}")
            python = _environment(session, "cuda", "cuda")
            if row.implementation.startswith("te"):
                _transformer_engine(session, python)
        _validate(session, python, row)

    return body


def _on_the_cpu(row: Row) -> str:
    """What a machine without GPUs has instead."""
    name = row.session.replace("gpu_", "cpu_")
    if any(other.session == name for other in rows()):
        return f"{name} compares the same layout on the CPU"
    return "parity compares in fp64 on the CPU"


def _transformer_engine(session: nox.Session, python: str) -> None:
    """Install it, if it is not there. What is compiled against the torch there is compiled once, and kept as a wheel."""
    there = "import importlib.util, sys; sys.exit(importlib.util.find_spec('transformer_engine_torch') is None)"
    if os.environ.get("PLUMBLINE_PYTHON") or _succeeds(python, "-m", "pip", "show", "--quiet", wheels.PART):
        return
    if _succeeds(python, "-c", there):  # an image's own build has it under this name
        return
    torch = subprocess.run(
        [python, "-c", "import importlib.metadata; print(importlib.metadata.version('torch'))"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    version = wheels.pinned(Path("requirements/te.txt").read_text(encoding="utf-8"))
    place = wheels.folder(os.environ, torch)
    if wheels.kept(place, version) is None:
        _build_transformer_engine(session, python, version, place)
    _pip(session, python, "--no-build-isolation", "--find-links", str(place), "-r", "requirements/te.txt")


def _build_transformer_engine(session: nox.Session, python: str, version: str, place: Path) -> None:
    """Compile its PyTorch part into the folder; a wheel that is there is whole."""
    session.log(f"compiles Transformer Engine {version} for this torch, once: it needs a C++ compiler and the headers of CUDA")
    _pip(session, python, *wheels.TOOLS)
    start, unfinished = time.monotonic(), place / f"unfinished-{os.getpid()}"
    words = ("--no-build-isolation", "--no-deps", "--wheel-dir", str(unfinished), f"{wheels.PART}=={version}")
    with nullcontext() if sys.stdout.isatty() else _telling(session, "pip wheel"):
        _run(session, python, "-m", "pip", "wheel", *words, failing=ExitCode.INFRASTRUCTURE)
    for wheel in unfinished.glob("*.whl"):
        wheel.replace(place / wheel.name)
    unfinished.rmdir()
    session.log(f"compiled in {time.monotonic() - start:.0f} s; later sessions take it from {place}")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _slurm_session(row: Row) -> Callable[[nox.Session], None]:
    """On a login node, which need not have what the nodes have. What sbatch is to be told stands in its own variables."""

    def body(session: nox.Session) -> None:
        with _leaving_no_old_results(session, row):
            if shutil.which("sbatch") is None:
                _exit_codes.append(ExitCode.ENVIRONMENT)
                session.error(f"no sbatch on this machine, and {row.session} is a job of Slurm; run it on a login node")
            kind = "cuda" if row.gpus else "cpu"
            python = _environment(session, kind, kind)
        _validate(session, python, row)

    return body


def _needed(gpus: int, given: Sequence[str]) -> str:
    """The GPUs of a session, fewer where the user lets ranks share them."""
    words = [word for one in given for word in one.split("=", 1)]
    share = dict(itertools.pairwise(words)).get("--share-gpu", "1")
    sharing = share.isdecimal() and int(share) > 1 and gpus > 1
    count = -(-gpus // int(share)) if sharing else gpus
    return f"{count} GPU{'s' if count > 1 else ''}" + (f" with --share-gpu {share}" if sharing else "")


def _driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _register(row: Row) -> None:
    body = _slurm_session(row) if row.nodes > 1 else _gpu_session(row) if row.gpus else _cpu_session(row)
    body.__doc__ = row.does[0].upper() + row.does[1:]
    nox.session(name=row.session, venv_backend="none", tags=["gpu" if row.gpus else "cpu"])(body)


for _row in rows():
    _register(_row)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Plumbline's own tests, but for those of tests_around"""
    _pytest(session, "tests", *(f"--ignore=tests/{folder}" for folder in _AROUND))


@nox.session(venv_backend="none")
def tests_around(session: nox.Session) -> None:
    """The tests of what surrounds the code: pages, families, scripts of findings, package, workflows, pipelines, viewers"""
    _pytest(session, *(f"tests/{folder}" for folder in _AROUND))


_AROUND = ("docs", "families", "findings", "nodes", "package", "pipelines", "project", "viewers", "workflows")
"""The folders of tests/ that `tests_around` runs. They take a third of the time of all tests."""


def _pytest(session: nox.Session, *words: str) -> None:
    python = _environment(session, "cpu", "cpu", "tests")
    _node_packages(session)
    several = ("-n", "auto", "--maxprocesses", "4")  # a process for each core; `-- -n 0` runs all tests in one
    _run(session, python, "-m", "pytest", *words, *several, *session.posargs, failing=ExitCode.FAIL)


def _node_packages(session: nox.Session) -> None:
    """Packages of npm's that tests need: GitHub's own parser of workflows, viewers of JUnit files.

    Where there is no npm, those tests say so.
    """
    for wanted in sorted(Path("tests").glob("*/package-lock.json")) if shutil.which("npm") else ():
        installed = wanted.parent / "node_modules" / ".package-lock.json"
        if not (installed.exists() and installed.stat().st_mtime >= wanted.stat().st_mtime):
            command = ("npm", "ci", "--prefix", str(wanted.parent), "--ignore-scripts", "--no-audit", "--no-fund", "--silent")
            with _telling(session, "npm ci"):
                _run(session, *command, failing=ExitCode.INFRASTRUCTURE)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Style and types, the workflows' included, as strict as CI"""
    python = Path(_environment(session, "cpu", "cpu", "lint"))
    scripts = [".ci/run", *sorted(map(str, Path("tests").glob("*/stand_ins/[!.]*")))]
    for command in (
        (str(python), "-m", "ruff", "check", "."),
        (str(python), "-m", "ruff", "format", "--check", "."),
        (str(python), "-m", "mypy"),
        (str(python.with_name("zizmor")), "--quiet", "--offline", "--persona", "pedantic", "--strict-collection", ".github"),
        *(_schema(python, name, sorted(map(str, Path().glob(files)))) for name, files in _SCHEMAS.items()),
        (str(python.with_name("shellcheck")), *scripts),
        (str(python.with_name("hadolint")), "ci/templates/Containerfile"),
        (str(python), "-m", "pre_commit", "validate-config", ".pre-commit-config.yaml"),
    ):
        _run(session, *command, failing=ExitCode.FAIL)


_SCHEMAS = {
    "vendor.github-workflows": ".github/workflows/*.yml",
    "custom.github-workflows-require-timeout": ".github/workflows/*.yml",
    "vendor.github-actions": ".github/actions/*/action.yml",
    "vendor.dependabot": ".github/dependabot.yml",
    "vendor.github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "vendor.github-issue-forms": ".github/ISSUE_TEMPLATE/[0-9]-*.yml",
    "vendor.gitlab-ci": "ci/templates/gitlab-ci.yml",
}
"""Published schemas, and which files they hold for. The same stand in .pre-commit-config.yaml."""


def _schema(python: Path, name: str, files: Sequence[str]) -> tuple[str, ...]:
    return (str(python), "-m", "check_jsonschema", "--quiet", "--builtin-schema", name, *files)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """The documentation site; a warning, such as a link that leads nowhere, is an error"""
    # `-- --links` asks other sites, too, whether they have what is linked to.
    python = _environment(session, "docs", "docs")
    builder, folder = ("linkcheck", "site/links") if "--links" in session.posargs else ("html", "site/html")
    strict = ("--fresh-env", "--fail-on-warning", "--keep-going", "--nitpicky", "--quiet")
    _run(session, python, "-m", "sphinx", "--builder", builder, *strict, "docs", folder, failing=ExitCode.FAIL)
    session.log(f"{folder}/{'output.txt' if builder == 'linkcheck' else 'index.html'}")


@nox.session(venv_backend="none")
def runner_page(session: nox.Session) -> None:
    """The commands of docs/runner.md in a fresh Debian; needs root and debootstrap"""
    python = _environment(session, "cpu", "cpu")
    _run(session, python, "-m", "tests.runner", *session.posargs)


@nox.session(venv_backend="none")
def benchmarks(session: nox.Session) -> None:
    """All layouts in one command against one torchrun per layout, side by side"""
    python = _environment(session, "cpu", "cpu")
    _run(session, python, "benchmarks/layouts.py", *session.posargs, failing=ExitCode.FAIL)


@nox.session(venv_backend="none")
def faults(session: nox.Session) -> None:
    """The scorecard: every fault of the catalogue in the ranks of a small case; each must be seen"""
    python = _environment(session, "cpu", "cpu")
    _run(session, python, "-m", "validation", "faults", *session.posargs)


@nox.session(venv_backend="none")
def logprobs(session: nox.Session) -> None:
    """Right and wrong dumps of rollout engines, in the format of each: the first must pass, the others name what is wrong"""
    python = _environment(session, "cpu", "cpu", "tests")
    _run(session, python, "benchmarks/rollouts.py", *session.posargs, failing=ExitCode.FAIL)


@nox.session(venv_backend="none")
def recipes(session: nox.Session) -> None:
    """Cases that hold every pair of switches and degrees; what fails is reduced to the smallest part that still fails"""
    python = _environment(session, "cpu", "cpu", "recipes")
    _run(session, python, "-m", "validation", "pairs", *session.posargs)


@nox.session(venv_backend="none")
def recipes_other(session: nox.Session) -> None:
    """The same cases with the release of megatron-core that requirements name for other Pythons"""
    _installed(session, "cpu", "cpu", "recipes")
    release = other_than_for((sys.version_info.major, sys.version_info.minor))
    results = f"results/{release.name}/pairs"
    _run(session, _overlay(session, release), "-m", "validation", "pairs", "--results", results, *session.posargs)


@nox.session(venv_backend="none")
def faults_behind_bugs(session: nox.Session) -> None:
    """The catalogue beside each known upstream bug: what is caught without the bug must be caught beside it"""
    python = _environment(session, "cpu", "cpu")
    _run(session, python, "-m", "validation", "faults", "--behind", "all", *session.posargs)


@nox.session(venv_backend="none")
def mutants(session: nox.Session) -> None:
    """Mutation testing: the code that decides is changed in one place at a time, and a test must notice each change"""
    python = _environment(session, "cpu", "cpu", "tests", "mutants")
    _run(session, python, "-m", "tests.mutants", *session.posargs)


@nox.session(venv_backend="none")
def versions(session: nox.Session) -> None:
    """Every release of megatron-core and transformers that is supported, one after the other; writes docs/versions.md"""
    shared = _installed(session, "cpu", "cpu")
    results = Path("results") / "versions"
    for release in (*RELEASES, *LIBRARIES):
        if session.posargs and release.name not in session.posargs:
            continue
        python = _overlay(session, release)
        for group in groups(release):
            # What fails or breaks is what this session is there to write down.
            codes = (ExitCode.PASS, ExitCode.FAIL, ExitCode.INFRASTRUCTURE)
            _run(session, python, "-m", "validation", *group.arguments(release, results), passing=codes)
        if release.torch:  # several gigabytes each
            shutil.rmtree(Path(".nox") / release.name)
    _run(session, shared, "-m", "ci.versions", str(results))


@nox.session(venv_backend="none")
def newest(session: nox.Session) -> None:
    """Parity with the newest megatron-core and transformers of the package index, whatever the table of releases has"""
    _installed(session, "cpu", "cpu")
    python = _on_top(session, "newest")
    _megatron_core(session, python, _newest(session, python))
    _pip(session, python, "--upgrade", "transformers")
    _run(session, python, "-m", "validation", *_parity().arguments(), "--results", "results/newest", *session.posargs)


@nox.session(venv_backend="none")
def parity_other(session: nox.Session) -> None:
    """Parity with the release of megatron-core that requirements name for other Pythons, and tests of what only it has"""
    _installed(session, "cpu", "cpu", "tests")
    release = other_than_for((sys.version_info.major, sys.version_info.minor))
    python = _overlay(session, release)
    _run(session, python, "-m", "validation", *_parity().arguments(), "--results", f"results/{release.name}", *session.posargs)
    if not session.posargs:
        _run(session, python, "-m", "pytest", "-q", *_OF_RELEASES, failing=ExitCode.FAIL)


_OF_RELEASES = ("tests/families/test_sparse_attention.py", "tests/convert/test_trained_by_megatron_lm.py")
"""Tests of what only newer releases have, sparse attention and Megatron-LM's own saver; others skip them or are refused."""


def _parity() -> Row:
    return next(row for row in rows() if row.session == "parity")


def _overlay(session: nox.Session, release: Release) -> str:
    """The interpreter of an environment that has one release on top of the shared one.

    megatron-core comes without what it asks for (older ones want an older numpy), transformers and torch with it.
    """
    python = _on_top(session, release.name)
    _megatron_core(session, python, release.megatron_core)
    for library, version in (("transformers", release.transformers), ("torch", release.torch)):
        if version:
            _pip(session, python, f"{library}=={version}")
    return python


def _megatron_core(session: nox.Session, python: str, version: str) -> None:
    """Install a release of megatron-core, and nothing that it asks for, in place of the one that is there.

    A release that asks for a younger Python is installed as that Python would get it: its code runs on 3.11, too.
    """
    session.log(f"megatron-core {version}")
    if version in _offered(python):
        _pip(session, python, "--no-deps", f"megatron-core=={version}")
        return
    packages = _packages(Path(python).parents[1])
    for older in packages.glob("megatron_core-*.dist-info"):
        shutil.rmtree(older)
    foreign = ("--target", str(packages), "--upgrade", "--only-binary", ":all:")
    of_linux = ("--platform", f"manylinux_2_28_{platform.machine()}", "--python-version", _youngest(python, version))
    _pip(session, python, "--no-deps", *foreign, *of_linux, f"megatron-core=={version}")


def _newest(session: nox.Session, python: str) -> str:
    """The newest release of megatron-core that the package index has for any Python."""
    found = _offered(python, "--ignore-requires-python")
    if not found:
        _exit_codes.append(ExitCode.INFRASTRUCTURE)
        session.error("pip finds no megatron-core on the package index; `pip index versions megatron-core` says why")
    return found[0]


def _youngest(python: str, version: str) -> str:
    """The oldest Python after that of `python` which is offered this release."""
    minors = (f"3.{minor}" for minor in range(sys.version_info.minor + 1, _LAST_MINOR + 1))
    return next((one for one in minors if version in _offered(python, "--python-version", one)), f"3.{_LAST_MINOR}")


def _offered(python: str, *words: str) -> list[str]:
    """The versions of megatron-core that the package index offers, the newest first."""
    command = (python, "-m", "pip", "index", "versions", "megatron-core", *words)
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    line = next((line for line in found.stdout.splitlines() if line.startswith("Available versions:")), "")
    return [version.strip() for version in line.partition(":")[2].split(",") if version.strip()]


def _on_top(session: nox.Session, name: str) -> str:
    """The interpreter of an environment that sees what the shared one has: torch is installed once."""
    folder = Path(".nox") / name
    python = folder / "bin" / "python"
    if not python.exists():
        _virtualenv(session, str(folder))
        (_packages(folder) / "shared.pth").write_text(f"{_packages(Path('.nox/cpu'))}\n", encoding="utf-8")
    return str(python)


def _packages(environment: Path) -> Path:
    """Where an environment keeps what is installed into it."""
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(environment.resolve())}))
