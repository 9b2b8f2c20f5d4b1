"""The coordinator's state machine: ignite → evaluate → (select → correct → rounds → evaluate)*.

Every step is recorded when it is complete; a campaign that is run again continues after the last
complete step and, because seeds derive from what a step is for, ends with the same weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedloop import seeds
from fedloop.errors import RoundError
from fedloop.models.card import card_of
from fedloop.models.registry import build_network
from fedloop.models.store import load_members, save_ensemble
from fedloop.models.weights import norm_names, state_arrays
from fedloop.records import (
    EVALUATE,
    SELECT,
    STATUS,
    Arrays,
    DescribeInstruction,
    EvaluateInstruction,
    Reply,
    SelectInstruction,
    StatusInstruction,
    Step,
    TrainInstruction,
)
from fedloop.settings import CampaignSettings, StrategySettings
from server.checkpoint import CampaignState, CheckpointStore
from server.rounds import Answer, SiteNode, ask, discover, require_quorum, train_round
from strategies.registry import build_strategy

log = logging.getLogger(__name__)

STATUS_POLL_SECONDS = 1.0
FEDAVG = StrategySettings(name="fedavg")

Progress = Callable[[str], None]


class Campaign:
    """Runs one campaign over a Flower grid, resuming from ``folder``.

    The final model is written to ``folder/model`` (see :mod:`fedloop.models.store`).
    """

    def __init__(
        self, settings: CampaignSettings, folder: Path, *, progress: Progress = lambda _: None
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.store = CheckpointStore(folder)
        self.progress = progress
        self._network = build_network(
            settings.spec.model,
            spatial_dims=settings.spec.spatial_dims,
            in_channels=settings.spec.in_channels,
            classes=len(settings.spec.classes),
            patch_size=settings.spec.imaging.patch_size,
            seed=0,
        )
        self._norm_arrays = norm_names(self._network)
        self._nodes: dict[str, SiteNode] = {}
        self._grid: Grid
        self._members: list[Arrays]
        self._states: list[Arrays]
        self._state: CampaignState

    # ------------------------------------------------------------------ the whole

    def run(self, grid: Grid) -> CampaignState:
        """Execute what is left of the campaign.

        Raises:
            RoundError: a step fell below its quorum; what was complete before stays on disk.
            RunFolderError: the folder belongs to another campaign.
        """
        s = self.settings
        self._grid = grid
        self._state = self.store.load_state(s.campaign, fingerprint(s))
        if "finished" in self._state.done:
            return self._state
        self._load_members()
        self._nodes = discover(
            grid,
            DescribeInstruction(campaign=s.campaign, seed=s.seed),
            expected=self._all_sites(),
            timeout=s.federation.round_timeout_seconds,
        )
        if s.igniter is not None:
            self._step("ignite", self._ignite)
        if s.evaluating_sites and s.igniter is not None:
            self._step("evaluate-0", lambda: self._evaluate(0))
        if s.selection is not None:
            for cycle in range(1, s.federation.cycles + 1):
                self._cycle(cycle)
        self._save_model()
        self._finish("finished")
        return self._state

    def _cycle(self, cycle: int) -> None:
        f = self.settings.federation
        if self.settings.annotating_sites:
            self._step(f"select-{cycle}", lambda: self._select(cycle))
            self._step(f"corrected-{cycle}", lambda: self._await_corrections(cycle))
        for number in range(1, f.rounds + 1):
            self._step(f"round-{cycle}-{number}", lambda n=number: self._round(cycle, n))  # type: ignore[misc]
            last = number == f.rounds
            if f.evaluate_every and number % f.evaluate_every == 0 and not last:
                self._step(
                    f"evaluate-{cycle}-{number}",
                    lambda n=number: self._evaluate(cycle, n),  # type: ignore[misc]
                )
        if self.settings.evaluating_sites:
            self._step(f"evaluate-{cycle}", lambda: self._evaluate(cycle, f.rounds))

    def _step(self, name: str, action: Callable[[], None]) -> None:
        if name in self._state.done:
            return
        action()
        self._finish(name)
        self.progress(name)

    def _finish(self, name: str) -> None:
        self._state.done.append(name)
        self.store.save_state(self._state)

    # ------------------------------------------------------------------ the steps

    def _ignite(self) -> None:
        s = self.settings
        igniter = s.igniter
        if igniter is None or igniter.site is None:
            raise RoundError("the campaign has an igniter without a site")
        optimiser = s.training.optimiser.model_copy(update={"learning_rate": igniter.learning_rate})
        instruction = TrainInstruction(
            **self._where(0, 0),
            spec=s.spec,
            training=s.training.model_copy(update={"optimiser": optimiser}),
            strategy=FEDAVG,
            steps=igniter.steps,
            total_steps=igniter.steps,
            labels="site",
        )
        self._train([self._nodes[igniter.site]], instruction, FEDAVG)
        self._states = [{} for _ in self._members]  # the igniter leaves no server state behind
        self._checkpoint("cycle-00")

    def _round(self, cycle: int, number: int) -> None:
        f = self.settings.federation
        first = ((cycle - 1) * f.rounds + number - 1) * f.steps_per_round
        instruction = TrainInstruction(
            **self._where(cycle, number),
            spec=self.settings.spec,
            training=self.settings.training,
            strategy=f.strategy,
            steps=f.steps_per_round,
            first_step=first,
            total_steps=f.cycles * f.rounds * f.steps_per_round,
            labels="corrections",
        )
        nodes = [self._nodes[name] for name in self.settings.training_sites]
        self._train(nodes, instruction, f.strategy)
        self._checkpoint(f"cycle-{cycle:02d}_round-{number:03d}")

    def _train(
        self, nodes: Sequence[SiteNode], instruction: TrainInstruction, strategy: StrategySettings
    ) -> None:
        f = self.settings.federation
        result = train_round(
            self._grid,
            nodes,
            instruction,
            self._members,
            [build_strategy(strategy) for _ in self._members],
            self._states,
            norm_arrays=self._norm_arrays,
            weigh=self._weigh,
            quorum=f.quorum,
            timeout=f.round_timeout_seconds,
        )
        self._members, self._states = result.members, result.states
        self._note(instruction, "train", result.answers)

    def _weigh(self, reply: Reply) -> float:
        examples = reply.metrics.get("examples", 0.0)
        f = self.settings.federation
        if not examples > 0:
            return 0.0
        central = not reply.metrics.get("corrected_patches", 0.0)
        weight = examples if f.weighting == "examples" else 1.0
        return weight * (f.central_weight if central else 1.0)

    def _select(self, cycle: int) -> None:
        s = self.settings
        if s.selection is None:
            raise RoundError("the campaign selects nothing")
        instruction = SelectInstruction(
            **self._where(cycle, 0),
            spec=s.spec,
            selection=s.selection,
            pseudo_label_threshold=s.training.pseudo_label_threshold,
            amp=s.training.amp,
        )
        answers = self._ask(SELECT, s.annotating_sites, instruction, self._members)
        self._note(instruction, "select", answers)

    def _await_corrections(self, cycle: int) -> None:
        """Wait until every annotating site has corrected what it queued, or, when the time is
        up, until the quorum of them has."""
        s = self.settings
        instruction = StatusInstruction(**self._where(cycle, 0))
        deadline = time.monotonic() + s.federation.round_timeout_seconds
        waiting = set(s.annotating_sites)
        while True:
            # A site that does not answer is one that is still waited for: no quorum here.
            for answer in self._answers(STATUS, sorted(waiting), instruction, ()):
                metrics = answer.reply.metrics if answer.reply else {}
                if metrics.get("corrected_patches", 0) >= metrics.get("selected_patches", 1):
                    waiting.discard(answer.site)
                    self._note(instruction, "status", [answer])
            if not waiting:
                return
            if time.monotonic() > deadline:
                done = len(s.annotating_sites) - len(waiting)
                if done and done >= s.federation.quorum * len(s.annotating_sites):
                    log.warning("cycle %d goes on without %s", cycle, ", ".join(sorted(waiting)))
                    return
                raise RoundError(
                    f"cycle {cycle}: {len(waiting)} site(s) have patches left to correct "
                    f"({', '.join(sorted(waiting))}); resume when they are done"
                )
            time.sleep(STATUS_POLL_SECONDS)

    def _evaluate(self, cycle: int, number: int = 0) -> None:
        s = self.settings
        final = cycle > 0 and number == s.federation.rounds
        instruction = EvaluateInstruction(
            **self._where(cycle, number),
            spec=s.spec,
            amp=s.training.amp,
            personal_steps=s.federation.personal_steps if s.federation.personal and final else 0,
            training=s.training if s.federation.personal and final else None,
        )
        answers = self._ask(EVALUATE, s.evaluating_sites, instruction, self._members)
        self._note(instruction, "evaluate", answers)

    def _ask(
        self, kind: str, sites: Iterable[str], instruction: Step, members: Sequence[Arrays]
    ) -> list[Answer]:
        answers = self._answers(kind, sites, instruction, members)
        quorum = self.settings.federation.quorum
        require_quorum(answers, quorum, what=f"cycle {instruction.cycle}, {kind}")
        return answers

    def _answers(
        self, kind: str, sites: Iterable[str], instruction: Step, members: Sequence[Arrays]
    ) -> list[Answer]:
        nodes = [self._nodes[name] for name in sites]
        timeout = self.settings.federation.round_timeout_seconds
        asked = ask(self._grid, kind, nodes, instruction, members=members, timeout=timeout)
        return [answer for _, answer in asked]

    # ------------------------------------------------------------------ memory

    def _where(self, cycle: int, number: int) -> dict[str, Any]:
        s = self.settings
        return {"campaign": s.campaign, "seed": s.seed, "cycle": cycle, "round": number}

    def _all_sites(self) -> list[str]:
        s = self.settings
        names = {*s.annotating_sites, *s.training_sites, *s.evaluating_sites}
        if s.igniter is not None and s.igniter.site is not None:
            names.add(s.igniter.site)
        return sorted(names)

    def _note(self, step: Step, action: str, answers: Iterable[Answer]) -> None:
        for answer in answers:
            self._state.history.append(
                {
                    "action": action,
                    "cycle": step.cycle,
                    "round": step.round,
                    "site": answer.site,
                    "bytes_in": answer.bytes_in,
                    "bytes_out": answer.bytes_out,
                    "failure": answer.failure,
                    **(dict(answer.reply.metrics) if answer.reply else {}),
                }
            )

    def _checkpoint(self, name: str) -> None:
        self.store.save_weights(name, self._members, self._states)
        on_disk, self._state.checkpoint = self._state.checkpoint, name
        # The step's own _finish writes the state: until then the one on disk names the old weights.
        self.store.prune(name, on_disk)

    def _load_members(self) -> None:
        s = self.settings
        if self._state.checkpoint is not None:
            self._members, self._states = self.store.load_weights(self._state.checkpoint)
            return
        if s.initial_model is not None:
            self._members, _ = load_members(s.initial_model)
        else:
            self._members = [
                state_arrays(
                    build_network(
                        s.spec.model,
                        spatial_dims=s.spec.spatial_dims,
                        in_channels=s.spec.in_channels,
                        classes=len(s.spec.classes),
                        patch_size=s.spec.imaging.patch_size,
                        seed=seeds.derive(s.seed, member=k, purpose="initial weights"),
                    )
                )
                for k in range(s.spec.model.members)
            ]
        self._states = [{} for _ in self._members]

    def _save_model(self) -> None:
        s = self.settings
        card = card_of(s.spec, trained_with=f"campaign {s.campaign}, seed {s.seed}")
        save_ensemble(self.folder / "model", self._members, card)


def fingerprint(settings: CampaignSettings) -> str:
    """Digest of everything that decides a campaign's result; where it runs is left out."""
    tree = settings.model_dump(mode="json", exclude={"initial_model"})
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
