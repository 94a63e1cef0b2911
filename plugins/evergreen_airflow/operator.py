"""The one operator: every step of every model is a pod, run by a cluster or by this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import yaml
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.providers.cncf.kubernetes.utils.pod_manager import OnFinishAction
from airflow.sdk import Asset, XComArg
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.listener import get_listener_manager
from airflow.sdk.log import mask_secret
from kubernetes.client import models as k8s

from evergreen.contract import ConfigurationError, Manifest, RunIdentity, Status, StepError
from evergreen.pipelines import StepSecret
from evergreen.settings import get_settings
from evergreen.spec import ModelSpec, Profile
from evergreen.store import get_store, read_manifest
from evergreen_airflow import pod as pods
from evergreen_airflow.attempts import Attempts
from evergreen_airflow.cluster_runtime import ATTEMPT, ClusterPodOperator
from evergreen_airflow.ending import Ending
from evergreen_airflow.kubelet import as_process
from evergreen_airflow.outcome import accept, airflow_error, read_task_manifest, xcom_value
from evergreen_airflow.partition import resolve_window
from evergreen_airflow.placement import get_placement

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context

    from evergreen_airflow.kubelet import PodProcess


class StepOperator(ClusterPodOperator):
    """Runs one step of a model as a pod.

    The full, hardened pod is always built and shown under Rendered Template. ``EVERGREEN_RUNTIME``, read when the
    task executes, decides who runs it: a cluster, while the task waits deferred, or this machine, as a process group.
    Either way the task's end follows from the result manifest of this very attempt, never from the exit code alone:
    only temporary failures are retried, out of memory once on the next larger profile, and an answer that is no
    ("refused") leaves this task green and those that depend on it skipped.

    Parameters
    ----------
    step
        The step's name.
    spec
        The model.
    secrets
        What the pod is given beyond what every step's is.
    upstream
        Manifests the step reads: step name to task id of the same run, or to the address of a task of another run;
        templated, or the output of a task that returns it.
    params_json
        Parameters of the step; templated, passed as JSON.
    profile
        Resource profile.
    cmds
        The command before ``run-step``; replaced in tests only.
    task_id
        Default: the step's name.
    execution_timeout
        The pod's deadline too.
    kwargs
        Everything else a task or a KubernetesPodOperator takes.

    Returns
    -------
    dict
        XCom: the manifest's facts and metrics, ``status`` and ``reason``.
    """

    template_fields: Sequence[str] = (
        "params_json",
        "upstream_steps",
        "rendered_pod",
        *ClusterPodOperator.template_fields,
    )
    template_fields_renderers = {"params_json": "json", "rendered_pod": "yaml", "env_vars": "py"}  # noqa: RUF012
    ui_color = "#e3f4e1"

    def __init__(
        self,
        *,
        step: str,
        spec: ModelSpec,
        profile: Profile,
        execution_timeout: timedelta,
        secrets: Sequence[StepSecret] = (),
        upstream: Mapping[str, str] | XComArg | None = None,
        params_json: Mapping[str, Any] | None = None,
        cmds: Sequence[str] = pods.COMMAND,
        task_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        defaults = pods.hardened() | {
            "log_events_on_failure": True,
            "log_pod_spec_on_failure": False,
            # how often the trigger logs new lines; with it the end of the log is read, not followed, which can hang
            # (apache/airflow #58382)
            "logging_interval": 5,
            "random_name_suffix": False,
        }
        defaults["env_from"] += [pods.further_secret(name) for name in secrets]
        super().__init__(
            task_id=task_id or step,
            cmds=list(cmds),
            labels=pods.labels(spec.name, step),
            execution_timeout=execution_timeout,
            active_deadline_seconds=max(1, int(execution_timeout.total_seconds())),
            do_xcom_push=False,  # it would mean the XCom sidecar, which can hang (#32111); XCom comes from the manifest
            **(defaults | kwargs),
        )
        self.step = step
        self.model = spec.name
        self.upstream_steps: Any = upstream if isinstance(upstream, XComArg) else dict(upstream or {})
        self.params_json = dict(params_json or {})
        self.profile = profile
        self.rendered_pod = ""
        self._process: PodProcess | None = None

    # --- the pod -----------------------------------------------------------------------------------------------

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render the templates, then show the pod that follows from them."""
        super().render_template_fields(context, jinja_env)
        self.upstream_steps = self.upstream_steps or {}  # a task that was marked as successful by hand has no output
        try:
            document = PodGenerator.serialize_pod(self.build_pod_request_obj(context, dry_run=True))
        except StepError as error:  # execute meets it again, and ends the task as its class demands
            self.rendered_pod = f"# no pod: {error}"
        else:
            self.rendered_pod = yaml.safe_dump(document, sort_keys=False, width=1000)

    def build_pod_request_obj(self, context: Context | None = None, *, dry_run: bool = False) -> k8s.V1Pod:
        """Build the pod of the attempt that the context describes; needs no cluster when ``dry_run``."""
        if context is not None:
            self._describe(context)
        pod = super().build_pod_request_obj(context, dry_run=dry_run)
        # else a Service of the namespace that is called evergreen-postgres sets EVERGREEN_POSTGRES_PORT=tcp://...
        pod.spec.enable_service_links = False
        return pod

    def _describe(self, context: Context) -> None:
        settings = get_settings()
        run, attempt = _identity(context), _attempt(context)
        self.image = pods.checked_image(settings.step_image)
        self.namespace = settings.namespace
        self.name = pods.pod_name(self.model, self.step, run, attempt)
        started = context["ti"].start_date or datetime.now(UTC)
        self.annotations = pods.owner_annotations(run, started + cast("timedelta", self.execution_timeout))
        self.arguments = [pods.escape(argument) for argument in self._arguments(context, run)]
        self.service_account_name = settings.pod_service_account or None
        self.schedule_timeout_seconds = settings.pod_schedule_seconds
        self.startup_timeout_seconds = settings.pod_start_seconds
        for name, value in get_placement().pod_arguments(self._profile(context, run)).items():
            setattr(self, name, value)
        self.env_vars = [
            k8s.V1EnvVar(name=ATTEMPT, value=attempt),
            k8s.V1EnvVar(name="EVERGREEN_IMAGE", value=pods.escape(self.image)),
            k8s.V1EnvVar(name="PYTHONUNBUFFERED", value="1"),  # lines are logged as they are written
            pods.THREADS,
        ]

    def _arguments(self, context: Context, run: RunIdentity) -> list[str]:
        window = resolve_window(context)
        return [
            "run-step",
            self.step,
            f"--model={self.model}",
            f"--partition={window.end}",
            f"--window-start={window.start}",
            f"--dag-id={run.dag_id}",
            f"--run-id={run.run_id}",
            f"--task-id={run.task_id}",
            *(f"--upstream={step}={task_id}" for step, task_id in self.upstream_steps.items()),
            *(f"--param={name}={json.dumps(value)}" for name, value in self.params_json.items()),
        ]

    def _profile(self, context: Context, run: RunIdentity) -> Profile:
        if context["ti"].try_number > 1 and Attempts(get_store(), run).ran_out_of_memory():
            return pods.LARGER.get(self.profile, self.profile)
        return self.profile

    # --- the run -----------------------------------------------------------------------------------------------

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the pod here, or launch it in the cluster and defer; skip without a pod after an upstream refusal."""
        _refuse_a_try_too_many(context)
        try:
            self._skip_after_refusal(_identity(context))
            settings = get_settings()
            self.deferrable = settings.runtime == "kubernetes"
            self.pod_request_obj = self.build_pod_request_obj(context, dry_run=not self.deferrable)
            if not self.deferrable:
                document = PodGenerator.serialize_pod(self.pod_request_obj)
                self._process = as_process(document, self.log, mask_secret)
                ending = self._process.run()
        except StepError as error:
            raise airflow_error(error) from None  # the message says it all
        if not self.deferrable:
            return self.conclude(context, _attempt(context), ending)
        try:
            super().execute(context)  # raises TaskDeferred, unless the pod it found has ended
        except StepError as error:  # the cluster refused the pod
            raise airflow_error(error) from None
        assert self._value is not None  # noqa: S101  # then the end was concluded
        return self._value

    def _skip_after_refusal(self, run: RunIdentity) -> None:
        for task_id in dict.fromkeys([*self.upstream_steps.values(), *sorted(self.upstream_task_ids)]):
            manifest = read_manifest(get_store(), run.resolve(task_id))
            if manifest is not None and manifest.status is Status.REFUSED:
                raise AirflowSkipException(f"{task_id}: {manifest.reason}")

    def on_kill(self) -> None:
        """End what runs: the process group here, or the pod in the cluster."""
        if self._process is not None:
            self._process.kill()
        else:
            super().on_kill()

    def attempt(self, context: Context) -> str:
        """Return the name of this execution of the task."""
        return _attempt(context)

    # --- the end -----------------------------------------------------------------------------------------------

    def conclusion(self, context: Context, attempt: str) -> dict[str, Any] | None:
        """Let the trigger end a task that succeeds, unless somebody is to be told of it: only a worker tells."""
        if self.on_finish_action is not OnFinishAction.DELETE_POD or self.callbacks:
            return None
        callbacks = self.on_success_callback, self.on_skipped_callback
        observers = (self.outlets, *callbacks, get_listener_manager().has_listeners)
        named = {"run": _identity(context).model_dump(), "attempt": attempt, "model": self.model, "step": self.step}
        return {**named, "ends_task": not any(observers)}

    def conclude(self, context: Context, attempt: str, ending: Ending) -> dict[str, Any]:
        """End the task as the manifest of this attempt says."""
        store, run = get_store(), _identity(context)
        try:
            manifest = read_task_manifest(store, run)
            manifest = accept(manifest, ending, attempt=attempt, model=self.model, step=self.step)
        except StepError as error:
            attempts, profile = Attempts(store, run), self._profile(context, run)
            retry_larger = profile in pods.LARGER and not attempts.ran_out_of_memory()
            crash, crashed_before = ending.crash, attempts.crashed()
            attempts.record(context["ti"].try_number, attempt, profile, error, crash)
            raise airflow_error(
                error, larger_profile_left=retry_larger, crash=crash, crashed_before=crashed_before
            ) from None
        value = xcom_value(manifest)
        context["ti"].xcom_push(key="return_value", value=value)
        if manifest.status is Status.SKIPPED:
            raise AirflowSkipException(manifest.reason)
        self._describe_events(context, manifest)
        return value

    def _describe_events(self, context: Context, manifest: Manifest) -> None:
        """Give the outlets' events what was written, and their partitions where the run itself has none."""
        snapshot, window = manifest.facts.get("snapshot"), manifest.window
        for outlet in self.outlets:
            if not isinstance(outlet, Asset):
                continue
            event = context["outlet_events"][outlet]
            if snapshot is not None:
                event.extra = {"snapshot": str(snapshot), "rows": manifest.facts.get("rows")}
            if not context["dag_run"].partition_key:  # a run by hand: what is downstream follows partitions only
                event.add_partitions(list(map(str, window.partitions)))


def _identity(context: Context) -> RunIdentity:
    ti = context["ti"]
    if ti.map_index is not None and ti.map_index >= 0:
        raise ConfigurationError(
            f"{ti.task_id} is mapped: its instances would share one manifest.", "Do not map steps."
        )
    return RunIdentity(dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id)


def _refuse_a_try_too_many(context: Context) -> None:
    """End a try that Airflow should not have started.

    When a scheduler dies, the tasks that ran beside it are scheduled again whatever their number of tries is: one that
    takes its scheduler along, e.g. by the memory of the machine, would be tried for ever.
    """
    ti: Any = context["ti"]
    if ti.try_number > ti.max_tries + 1:
        raise AirflowFailException(
            f"try {ti.try_number} of a task that may be tried {ti.max_tries + 1} times: a scheduler died while it ran. "
            "See what ended that, then clear the task, which allows as many tries again."
        )


def _attempt(context: Context) -> str:
    ti: Any = context["ti"]
    return f"{ti.try_number}-{ti.id}"  # the id tells a run from an earlier one that was deleted and had the same name
