"""Ray Train without the helper processes that nothing here needs."""

from __future__ import annotations

from typing import Any


def lean_trainer(*, alone: bool) -> type[Any]:
    """Return a TorchTrainer without helper processes of Ray Train, each a Python process that imports Ray.

    None of ours needs the one that serves Ray Data, nor the one that frees the placement group of a controller that
    died: the group goes with its job, while that process would stay in the cluster for ever (it ends itself from a
    thread, which ends the thread). docs/performance.md has what they cost.

    Parameters
    ----------
    alone
        Whether Ray is one machine that ends with the step: its workers need not wait until an autoscaler has been
        asked for nodes either.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

    class OneMachine(FixedScalingPolicy):  # type: ignore[misc]  # Ray has no types here
        def after_controller_start(self, train_run_context: Any) -> None:
            """Ask nobody for nodes."""

        def _maybe_send_resource_request(self) -> None:
            """Nor later."""

    class LeanTrainer(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            unneeded = (DatasetsCallback, PlacementGroupCleanerCallback)
            return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unneeded)]

        def _initialize_and_run_controller(self, **options: Any) -> Any:
            if alone:
                options["scaling_policy"] = OneMachine(self.scaling_config)
            return super()._initialize_and_run_controller(**options)

    return LeanTrainer
