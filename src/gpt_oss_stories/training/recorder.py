"""What a run leaves to be looked at: the metrics file, trackers, the live display, pictures and `run.json`.

Only the main process has files and a display. What asks all processes for something is marked *together*.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from ..config import DataConfig, ModelConfig, TrainingConfig
from ..files import FileWriteError
from .checkpoint import RunState
from .display import Speaker, TrainingDisplay
from .distributed import Processes
from .evaluation import Evaluation
from .faults import first_line
from .flops import peak_flops, training_flops_per_token
from .metrics import LOAD_DIGITS, METRICS_FILE, MetricsFile, StepRecord, gpu_memory, process_memory
from .plots import plot_training_curves
from .precision import Precision
from .provenance import program_facts
from .run_file import RunFile, begun
from .schedule import run_share
from .sums import StepSums, relative_entropy
from .timing import TimeSplit
from .trackers import Trackers

PLOT_FILE = Path("plots") / "training_curves.png"

PICTURE_SHARE = 50.0
"""Pictures are drawn again after this many times the time that drawing takes."""


class Recorder:
    """Records one run; a context manager, which opens the files that the steps are then recorded in."""

    def __init__(
        self,
        model: ModelConfig,
        config: TrainingConfig,
        data: DataConfig,
        *,
        length: int,
        device: torch.device,
        precision: Precision,
        processes: Processes,
        say: Speaker,
    ) -> None:
        """
        Args:
            model, config, data: the run.
            length: tokens in a row.
            device, precision: where and in which number format it computes.
            processes: who takes part.
            say: prints lines; gets the live display while the recorder is open.
        """
        self._model, self._config, self._data = model, config, data
        self._device, self._precision, self._processes, self._say = device, precision, processes, say
        self._directory = Path(config.checkpoint_dir)
        self.sums = StepSums()
        """Of the steps since the last record."""
        self.times = TimeSplit(device)
        self.train_loss: float | None = None
        """Mean loss of the steps in the last record, in nats."""
        self.trackers = Trackers([], say)
        self.display: TrainingDisplay
        self._metrics: MetricsFile | None = None
        self._run_file: RunFile | None = None
        self._flops_per_token = training_flops_per_token(model, length)
        self._peak_flops = peak_flops(device, precision.dtype)
        self._draw_not_before = 0.0
        self._open = ExitStack()

    def open(self, state: RunState) -> Self:
        """Open everything for a run that goes on from a state, or begins; together.

        Raises:
            FileWriteError: the checkpoint folder cannot be written.
            TrackerError: a tracker's package is missing.
        """
        if self._processes.is_main:
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FileWriteError(
                    f"cannot make the folder {self._directory}: {error.strerror or error}. "
                    "Choose another --checkpoint-dir."
                ) from error
            self._metrics = MetricsFile(
                self._directory / METRICS_FILE, resumed_step=state.step, keep_interim=state.sums is None
            )
            self._open.callback(self._metrics.close)
            settings = {
                "model": self._model.to_dict(),
                "training": self._config.to_dict(),
                "data": self._data.to_dict(),
            }
            self._run_file = self._begin_run_file(settings, resumed=state.step > 0)
            self.trackers = Trackers.open(
                self._config,
                settings,
                self._directory,
                resumed_step=state.step,
                identifiers=state.trackers,
                say=self._say,
            )
            self._open.push(lambda kind, error, trace: self.trackers.close(failed=error is not None))
        # Go on with the sums that a state holds, unless its step's record, for which they were, is there.
        recorded = self._metrics is not None and self._metrics.last_step == state.step
        if state.sums is not None and not self._processes.share(recorded):
            self.sums = StepSums.from_dict(state.sums)
        self.display = self._open.enter_context(TrainingDisplay(self._say.console, self._config.max_iters))
        self._say.display = self.display
        self._open.callback(setattr, self._say, "display", None)
        self.times.take()  # what came before, such as loading, is in no record
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def _begin_run_file(self, settings: dict[str, dict[str, Any]], *, resumed: bool) -> RunFile:
        report = self._model.parameters()
        run = begun(
            self._directory,
            resumed=resumed,
            name=self._config.run_name,
            settings=settings,
            parameters=report.total,
            active_parameters=report.active,
            device=str(self._device),
            precision=str(self._precision.dtype).removeprefix("torch."),
            processes=self._processes.world_size,
            program=program_facts(),
        )
        run.write(self._directory)
        return run

    def ended(self, *, complete: bool) -> None:
        """Note that the run has ended."""
        if self._run_file is None:
            return
        try:
            self._run_file.ended(complete=complete).write(self._directory)
        except FileWriteError as error:  # all that matters is saved
            self._say(str(error), "yellow")

    def show_step(self, state: RunState, loss_scale: float | None) -> None:
        """Show a step that is not recorded."""
        self._show(state, self._new_record(state, None, loss_scale))

    def record(
        self,
        state: RunState,
        evaluation: Evaluation | None,
        loss_scale: float | None,
        *,
        interim: bool = False,
    ) -> None:
        """Record the steps since the record before, and what an evaluation found; together.

        Args:
            state: after the last step.
            evaluation: of the model after that step.
            loss_scale: of float16.
            interim: the run ends here before the record is due; when it is resumed, another one takes its place.
        """
        record = dataclasses.replace(
            self._new_record(state, evaluation, loss_scale),
            interim=interim or None,
            **self._expert_load(),
            **self._memory_and_times(),
        )
        self.sums = StepSums()
        if self._metrics is not None:
            self._metrics.write(record)
        self.trackers.log(record)
        self._show(state, record)

    def _new_record(self, state: RunState, evaluation: Evaluation | None, loss_scale: float | None) -> StepRecord:
        """What is known about the last step without asking anything for it: what is shown after each step."""
        sums = self.sums
        values: dict[str, Any] = {}
        if sums.steps:
            values |= self._rates(sums.factor) | self._speeds(sums)
            values["grad_norm"] = sums.grad_norm
            values["step_seconds"] = sums.seconds / sums.steps
        if sums.finite_steps:
            means = sums.mean_losses()
            values["loss_nats"] = self.train_loss = means[0]
            values["bits_per_byte"] = sums.bits_per_byte()
            values["multi_token_loss_nats"] = tuple(means[1:-2])
            if self._model.num_experts > 1:
                values["balance_loss"], values["router_z_loss"] = means[-2:]
        if evaluation is not None:
            values |= {
                "validation_loss_nats": evaluation.loss_nats,
                "validation_bits_per_byte": evaluation.bits_per_byte,
                "validation_accuracy": evaluation.accuracy,
                "validation_multi_token_loss_nats": evaluation.multi_token_loss_nats,
                "validation_multi_token_accuracy": evaluation.multi_token_accuracy,
            }
        return StepRecord(
            step=state.step,
            tokens_seen=state.tokens_seen,
            training_seconds=state.training_seconds,
            loss_scale=loss_scale,
            skipped_steps=state.skipped_steps,
            **values,
        )

    def _rates(self, factor: float) -> dict[str, Any]:
        """Learning rates of a step whose schedule gives a factor."""
        config = self._config
        embedding = config.embedding_learning_rate
        return {
            "learning_rate": config.learning_rate * factor,
            "embedding_learning_rate": None if embedding is None else embedding * factor,
            "matrix_learning_rate": config.matrix_learning_rate * factor if config.optimizer == "muon" else None,
        }

    def _speeds(self, sums: StepSums) -> dict[str, Any]:
        if not sums.seconds:
            return {}
        flops = self._flops_per_token * sums.tokens / sums.seconds
        peak = None if self._peak_flops is None else self._peak_flops * self._processes.world_size
        return {
            "tokens_per_second": sums.tokens / sums.seconds,
            "targets_per_second": sums.targets / sums.seconds,
            "model_flops_per_second": flops,
            "model_flops_utilization": None if peak is None else flops / peak,
        }

    def _expert_load(self) -> Mapping[str, Any]:
        shares = self.sums.load_shares()
        if shares is None:
            return {}
        return {
            "expert_load": tuple(tuple(round(share, LOAD_DIGITS) for share in layer) for layer in shares.tolist()),
            "expert_load_entropy": tuple(relative_entropy(shares).tolist()),
            "expert_load_max_over_mean": float(shares.max()) * shares.shape[1],
            "expert_load_min_over_mean": float(shares.min()) * shares.shape[1],
        }

    def _memory_and_times(self) -> Mapping[str, Any]:
        """Memory of the process that has most, this one's times since they were last taken; together."""
        names = ("resident_memory_bytes", "peak_memory_bytes", "gpu_memory_bytes", "gpu_peak_memory_bytes")
        own = [-1 if size is None else size for size in (*process_memory(), *gpu_memory(self._device))]
        most = self._processes.largest([float(size) for size in own])
        parts, passed = self.times.take()
        return {
            **{name: None if size < 0 else int(size) for name, size in zip(names, most, strict=True)},
            **{f"{part}_seconds": seconds for part, seconds in parts.items()},
            "interval_seconds": passed,
        }

    def _show(self, state: RunState, record: StepRecord) -> None:
        config, step = self._config, state.step
        share = run_share(step, config.max_iters, state.training_seconds, config.max_seconds)
        remaining = None if record.step_seconds is None else record.step_seconds * (config.max_iters - step)
        if config.max_seconds is not None:
            time_left = max(0.0, config.max_seconds - state.training_seconds)
            remaining = time_left if remaining is None else min(remaining, time_left)
        self.display.step(record, share=share, remaining_seconds=remaining)

    def draw_when_due(self, step: int) -> None:
        """Draw the curves, unless they have been drawn just now: a short run with many evaluations should not spend
        itself on pictures, which take a second or so."""
        if time.monotonic() >= self._draw_not_before:
            self.draw(step)

    def draw(self, step: int) -> None:
        """Draw the curves."""
        if self._metrics is None or not self._metrics.lines:
            return
        began = time.monotonic()
        try:
            path = plot_training_curves(self._metrics.path, self._directory / PLOT_FILE)
        except FileWriteError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever drawing raises, training does not depend on it
            self._say(f"no picture of the curves: {first_line(error)}", "yellow")
            return
        self._draw_not_before = time.monotonic() + PICTURE_SHARE * (time.monotonic() - began)
        self.trackers.picture(step, path)


def draw_if_missed(directory: Path) -> None:
    """Draw the curves of a run that was killed while it drew them."""
    metrics, picture = directory / METRICS_FILE, directory / PLOT_FILE
    if metrics.exists() and not (picture.exists() and picture.stat().st_mtime >= metrics.stat().st_mtime):
        plot_training_curves(metrics, picture)
