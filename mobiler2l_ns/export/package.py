"""From a student to proven packages in their place: convert beside the folder, prove, then move in."""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from nerfstudio.utils.rich_utils import CONSOLE

from mobiler2l_ns import __version__
from mobiler2l_ns.errors import UserError, unwritable
from mobiler2l_ns.export import manifest, volume_file
from mobiler2l_ns.export.clients import page as clients
from mobiler2l_ns.export.contract import CONTRACTS, MANIFEST, Contract
from mobiler2l_ns.export.depth import check as check_depth
from mobiler2l_ns.export.format import Format
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.graph import Graph, graph_of
from mobiler2l_ns.export.lint import lint
from mobiler2l_ns.export.poses import PackagePoses
from mobiler2l_ns.export.proof import Reference, prove
from mobiler2l_ns.export.summary import print_table
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.student.renderer import Student

BESIDE_VOLUME = 60.0
"""The most PSNR in dB to the student that is asked of a package beside a volume, which is in half precision."""
UNFINISHED = ".unfinished-"
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""Begins the name of the folder that an export works in."""


@dataclass(frozen=True)
class Request:
    """One package that is asked for."""

    format: str
    contract: Contract | None = None
    """None given: the first that the format has for the student, the pose wherever it can."""
    precision: str = ""
    """None given: the format's own."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(height, width) of its pictures; none: the student's own."""
    depth: bool = False
    """Whether it gives depth, too."""


@dataclass(frozen=True)
class _Job:
    """One file to write: a request with one size, or with all of them where the format holds functions."""

    form: Format
    contract: Contract
    precision: str
    views: dict[str, tuple[PictureGeometry, float]]
    """Function -> what it renders, and the pitch of its rays."""
    name: str
    depth: bool


def view_of(student: Student, height: int, width: int) -> tuple[PictureGeometry, float]:
    """How a student renders pictures of a size: at a pitch it has learned, where the size is that pitch's; otherwise
    at its own focal length, so that another size is another field of view.

    Returns:
        The view, and the pitch of its rays.
    """
    for pitch in student.config.pitches:
        view = student.view(pitch)
        if (view.height, view.width) == (height, width):
            return view, pitch
    return student.view().window(height, width), 1.0


def _contract(student: Student, form: Format, asked: Contract | None) -> Contract:
    offered = form.contracts_of(student)
    if asked in offered:
        return asked
    if asked is None:
        return offered[0]
    if asked == "features" and student.volume is None:
        raise UserError("This student has no volume that could give features: its network is asked with the encoding")
    if asked == "encoding" and "features" in offered:
        return "features"  # its network asks for both
    if asked in form.contracts:
        raise UserError(
            f"{form.name} packages cannot look up this student's volume, which the client does: ask for --contracts "
            f"{offered[0]} in place of {asked}"
        )
    raise UserError(f"{form.name} packages hold {', '.join(form.contracts)}, not {asked}")


def _jobs(student: Student, request: Request) -> list[_Job]:
    form = all_formats()[request.format]
    missing = form.missing()
    if missing:
        raise UserError(f"{form.name} packages need more: {missing}")
    contract = _contract(student, form, request.contract)
    precision = request.precision or form.precision
    if precision not in form.thresholds:
        raise UserError(f"{form.name} packages come in {', '.join(form.thresholds)}, not {precision}")
    if request.depth:
        check_depth(form, contract, student)
    pitches = student.config.pitches if form.stands_alone else (1.0,)
    whole_pictures = tuple((view.height, view.width) for view in map(student.view, pitches))
    sizes = request.sizes or whole_pictures
    if len(set(sizes)) < len(sizes) or any(min(size) < 1 for size in sizes):
        raise UserError(f"--sizes {' '.join(f'{w}x{h}' for h, w in sizes)}: each must be there once and not empty")
    views = {f"size_{width}x{height}": view_of(student, height, width) for height, width in sizes}
    together = {"main": next(iter(views.values()))} if len(views) == 1 else views
    groups = [together] if form.holds_functions else [{"main": view} for view in views.values()]
    jobs = []
    for group in groups:
        parts = ["mobiler2l"]
        parts += [contract] * (contract != "pose")
        parts += [precision] * (precision != form.precision)
        parts += ["depth"] * request.depth
        if sizes != whole_pictures:
            parts += [f"{view.width}x{view.height}" for view, _ in group.values()]
        jobs.append(_Job(form, contract, precision, group, "-".join(parts) + form.suffix, request.depth))
    return jobs


def _write(
    student: Student, job: _Job, reference: Reference, work: Path, poses: PackagePoses | None
) -> manifest.PackageFile:
    """Convert and prove one file in the work folder."""
    graphs: dict[str, Graph] = {
        name: graph_of(student, job.contract, view, pitch, job.depth) for name, (view, pitch) in job.views.items()
    }
    metadata = {
        "generator": f"mobiler2l-ns {__version__}",
        "contract": CONTRACTS[job.contract],
        "manifest": MANIFEST,
        "student_sha256": manifest.student_digest(student),
    }
    package = work / job.name
    with CONSOLE.status(f"Converting to {job.name}"):
        job.form.convert(graphs, package, job.precision, metadata)
    if job.form.stands_alone:
        sizes = [manifest.describe_view(name, view, pitch) for name, (view, pitch) in job.views.items()]
        manifest.write_inside(package, student, sizes, poses)
        job.form.finish(package)
    least = job.form.thresholds[job.precision]
    if job.contract == "features":
        least = min(least, BESIDE_VOLUME)
    proofs, views, run_by = [], [], []
    for name, (view, pitch) in job.views.items():
        runner = job.form.open(package, name)
        proof = prove(reference, runner, job.contract, view, least, f"The {job.form.name} package", pitch, job.depth)
        proofs.append(proof)
        run_by.append(getattr(runner, "run_by", job.form.run_by))
        described = manifest.describe_view(name, view, pitch)
        if job.depth:
            described |= manifest.describe_depth(student, view, job.form.layout)
        views.append({**described, **manifest.describe_proof(proof, job.form.timed)})
    size, sha256 = manifest.digests(package)
    if job.contract == "features":
        more, volume = manifest.digests(work / volume_file.NAME)
        size, sha256 = size + more, {**sha256, **volume}
    layers = job.form.layers(package, next(iter(job.views)))
    first = next(iter(graphs.values()))
    dtype = job.form.input_dtype(first, job.precision)
    return manifest.PackageFile(
        format=job.form.name,
        path=job.name,
        contract=job.contract,
        precision=job.precision,
        bytes=size,
        psnr_student=min(view["psnr_student"] for view in views),
        psnr_photos=views[0]["psnr_photos"],
        ms=views[0]["ms"],
        run_by=run_by[0],
        inputs={value.name: dtype for value in first.inputs},
        layout=job.form.layout,
        output=job.form.output + "; depth, float32, see views" * job.depth,
        views=views,
        gmac=round(sum(layer.macs for layer in layers) / 1e9, 3) if layers else None,
        largest_activation_bytes=max(layer.activation_bytes for layer in layers) if layers else None,
        warnings=[str(finding) for finding in lint(layers, job.form.processors)],
        sha256=sha256,
    )


def _keep(file: Path, copy: Path) -> None:
    """Have a file under a second name: by a link, where the file system has them."""
    try:
        copy.hardlink_to(file)
    except OSError:
        shutil.copy2(file, copy)


def _move_in(work: Path, names: Sequence[str], output_dir: Path) -> None:
    """Move files and folders to their place, all or none: what stood there goes to the work folder, and comes back if
    anything fails."""
    replaced = work / "replaced"
    replaced.mkdir()
    begun = []
    try:
        for name in names:
            begun.append(name)
            if (output_dir / name).is_file() and (work / name).is_file():
                # At no moment is there no file, or half of one, under its name.
                _keep(output_dir / name, replaced / name)
                (work / name).replace(output_dir / name)
                continue
            if (output_dir / name).exists():
                (output_dir / name).rename(replaced / name)
            (work / name).rename(output_dir / name)
    except BaseException:
        for name in reversed(begun):
            if not (work / name).exists():
                (output_dir / name).rename(work / name)
            if (replaced / name).exists():
                (replaced / name).replace(output_dir / name)
        raise


def export_packages(
    student: Student,
    requests: Sequence[Request],
    output_dir: Path,
    reference: Reference | None = None,
    poses: PackagePoses | None = None,
) -> list[manifest.PackageFile]:
    """Write packages, their manifest and code that uses them into ``output_dir``, all or nothing, and print a table.

    They are written and proven in a folder of their own; what stood there before is replaced at the very end.

    Args:
        student: in evaluation mode.
        requests: the packages.
        output_dir: made if it is not there.
        reference: with the photos to compare with; without one, packages are compared with the student alone.
        poses: named views and a turntable that they bring along; None: those of the student's fence.

    Raises:
        UserError: if a package does not give the student's pictures, something asked for is not on offer or not
            installed, or the folder cannot be written.
    """
    jobs = [job for request in requests for job in _jobs(student, request)]
    reference = reference or Reference(student)
    with _alone_in(output_dir):
        files, left = _write_all(student, jobs, output_dir, reference, poses)
    print_table(output_dir, files, reference.psnr_photos())
    if left:
        CONSOLE.print(
            f"No longer listed in {output_dir}, since they are of an earlier student or their entry is damaged: "
            f"{', '.join(left)}. Export them again, or delete them",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
    return files


def lock_of(output_dir: Path) -> Path:
    """The file that an export to a folder holds: of this machine and user, and outside of the folder, which is given
    away as it is."""
    named = hashlib.sha256(f"{Path.home()} {output_dir.resolve()}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"mobiler2l-export-{named}.lock"


@contextmanager
def _alone_in(output_dir: Path) -> Iterator[None]:
    """Hold a folder against other exports, which would lose entries of the manifest to each other.

    Raises:
        UserError: if it cannot be written, or another export is at work there.
    """
    lock = FileLock(lock_of(output_dir))
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"Another export is writing to {output_dir}: wait for it, or choose another --output-dir"
        ) from None
    except OSError as error:
        raise UserError(f"{output_dir} cannot be written: {error}") from None
    try:
        yield
    finally:
        lock.release()


def _write_all(
    student: Student, jobs: Sequence[_Job], output_dir: Path, reference: Reference, poses: PackagePoses | None
) -> tuple[list[manifest.PackageFile], list[str]]:
    """Write, prove and move in; returns the packages, and names of those that are listed no more."""
    try:
        for killed in output_dir.glob(f"{UNFINISHED}*"):
            shutil.rmtree(killed, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=output_dir))
    except OSError as error:
        raise UserError(f"{output_dir} cannot be written: {error}") from None
    try:
        described = output_dir / MANIFEST
        if described.exists():
            manifest.read(described)  # before all the work, if it is something else
        needed = [volume_file.write(work, student).name] if any(job.contract == "features" for job in jobs) else []
        files = [_write(student, job, reference, work, poses) for job in jobs]
        left = manifest.write(work / MANIFEST, student, files, reference.psnr_photos(), described, poses)
        clients.write(work / MANIFEST)
        _move_in(work, [*(file.path for file in files), *needed, clients.NAME, MANIFEST], output_dir)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise unwritable(output_dir, error, "export again") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return files, left
