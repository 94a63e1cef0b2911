"""The KubernetesPodOperator, with the remedies its users have found necessary; each names its upstream issue."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.pod_manager import OnFinishAction
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from evergreen.contract import ConfigurationError
from evergreen.settings import get_settings
from evergreen_airflow import predecessor
from evergreen_airflow.ending import Ending
from evergreen_airflow.pod_api import CONFLICT
from evergreen_airflow.pod_ending import BASE, refusal
from evergreen_airflow.pod_trigger import StepPodTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

ATTEMPT = "EVERGREEN_ATTEMPT"
"""Names the execution of a task; a pod, and the manifest it writes, carry that of the try that launched it."""
_EVENT_ATTEMPT = "evergreen_attempt"


class ClusterPodOperator(KubernetesPodOperator):
    """A KubernetesPodOperator whose end is decided by `conclude`, whatever became of the pod."""

    _attempt = ""
    _conclusion: dict[str, Any] | None = None
    _observed_pod: k8s.V1Pod | None = None
    _value: dict[str, Any] | None = None

    @abstractmethod
    def conclude(self, context: Context, attempt: str, ending: Ending) -> dict[str, Any]:
        """Return the task's value or raise, given how its pod ended."""

    @abstractmethod
    def conclusion(self, context: Context, attempt: str) -> dict[str, Any] | None:
        """Return whose answer ends the task, for the trigger to look for; None if it is the task's to look.

        ``run``, ``attempt``, ``model`` and ``step`` name the manifest. ``ends_task``: the trigger may end the task by
        itself. If not, it deletes the pod, and the task resumes.
        """

    @abstractmethod
    def attempt(self, context: Context) -> str:
        """Return the name of this execution of the task."""

    def get_or_create_pod(self, pod_request_obj: k8s.V1Pod, context: Context) -> k8s.V1Pod:
        """Launch the pod, or find the one that an interrupted try has launched.

        A request that was answered with an error may have been carried out all the same (apache/airflow #35676,
        duplicate pods). An attempt's pod has one name, so the repeated request is refused: then it is there.
        """
        self._attempt = self.attempt(context)
        try:
            pod = self._taken_over(pod_request_obj.metadata.namespace, context)
            if pod is None:
                self.pod_manager.create_pod(pod=pod_request_obj)
                pod = pod_request_obj
        except ApiException as error:
            if error.status != CONFLICT:
                raise refusal(error.status, error.body or error.reason or "") from error
            self.log.info("Pod %s is there already: watching it.", pod_request_obj.metadata.name)
            pod = self.hook.get_pod(pod_request_obj.metadata.name, pod_request_obj.metadata.namespace)
        # an adopted pod writes its manifest under the attempt of the try that launched it
        self.trigger_kwargs = {_EVENT_ATTEMPT: _attempt_of(pod)}
        self._conclusion = self.conclusion(context, _attempt_of(pod))
        return pod

    def _taken_over(self, namespace: str, context: Context) -> k8s.V1Pod | None:
        """Return the pod of an earlier try that still runs, to wait for; end what else earlier tries have left.

        The provider would adopt a pod that is being deleted, delete one that has ended with its log unread, and fail
        where it finds two.
        """
        selector = self._build_find_pod_label_selector(context)
        earlier = self.client.list_namespaced_pod(namespace=namespace, label_selector=selector).items
        adopted = predecessor.adopt(earlier)
        keep = None if self.on_finish_action is OnFinishAction.DELETE_POD else self.patch_already_checked
        for pod in earlier:
            if pod is adopted:
                continue
            _attempt_of(pod)  # refuses somebody else's
            predecessor.end(self.client, pod, self.log, delete=keep)
        if adopted is None:
            return None
        if not predecessor.mark(self.client, adopted, self._attempt):
            self.log.info("Pod %s has gone in this very moment.", adopted.metadata.name)
            return None
        self.log.info(
            "Pod %s, launched by attempt %s, is there: waiting for it.", adopted.metadata.name, _attempt_of(adopted)
        )
        return adopted

    def on_kill(self) -> None:
        """Delete the pod, unless a later try waits for it: this one was given up long ago, and did not know."""
        if self.pod is not None:
            with suppress(ApiException, HTTPError):
                current = self.hook.get_pod(self.pod.metadata.name, self.pod.metadata.namespace)
                adopter = (current.metadata.annotations or {}).get(predecessor.ADOPTED, self._attempt)
                if adopter != self._attempt:
                    name = self.pod.metadata.name
                    self.log.info("Pod %s is left to attempt %s, which has taken it over.", name, adopter)
                    return
        super().on_kill()

    def defer(self, *, trigger: BaseTrigger, **arguments: Any) -> NoReturn:
        """Wait with `StepPodTrigger` in the place of the provider's trigger, which polls."""
        _, of_trigger = trigger.serialize()
        stuck = get_settings().pod_stuck_seconds
        super().defer(trigger=StepPodTrigger(stuck, self._conclusion, **of_trigger), **arguments)

    def convert_config_file_to_dict(self) -> None:
        """Give the trigger the cluster's address once.

        With ``$KUBECONFIG`` set beside a connection that says it too, the trigger would be given both, and fail with
        "mutually exclusive" for every task.
        """
        self._config_dict = None
        fields = ("in_cluster", "kube_config", "kube_config_path")
        if not any(self.hook._get_field(field) for field in fields):  # type: ignore[attr-defined]
            super().convert_config_file_to_dict()  # type: ignore[no-untyped-call]

    def cleanup(
        self,
        pod: k8s.V1Pod,
        remote_pod: k8s.V1Pod,
        xcom_result: dict[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        """Remember how the pod ended before it is removed."""
        self._observed_pod = remote_pod
        super().cleanup(pod, remote_pod, xcom_result, context)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Conclude, from what the trigger and the pod tell.

        The provider takes a success event for success even if the pod is gone (#66715), or failed in the meantime
        (#41867). Here it is one of two witnesses, and the manifest is the other.
        """
        attempt, self._attempt = event[_EVENT_ATTEMPT], self.attempt(context)
        if event.get("pod_is_deleted"):  # by the trigger, which has seen the end, the log and the manifest
            return self.conclude(context, attempt, Ending.from_dict(event["ending"]))
        self.get_logs = not event.get("log_is_complete")  # else the trigger has logged every line
        self.trigger_kwargs = {_EVENT_ATTEMPT: attempt}  # for a re-deferral
        trouble: Exception | None = None
        try:
            super().trigger_reentry(context, event)
        except (AirflowException, ApiException, HTTPError) as error:
            trouble = error
            self.log.warning("Kubernetes: %s", error)
        self._value = self.conclude(context, attempt, _ending(self._observed_pod, event, trouble))
        return self._value


def _attempt_of(pod: k8s.V1Pod) -> str:
    """Return which attempt of a task launched a pod; somebody else's pod is refused."""
    steps = [container for container in pod.spec.containers if container.name == BASE]
    variables = {variable.name: variable.value for step in steps for variable in step.env or ()}
    if attempt := variables.get(ATTEMPT):
        return str(attempt)
    raise ConfigurationError(
        f"Pod {pod.metadata.namespace}/{pod.metadata.name} is not a step's: its container {BASE} has no {ATTEMPT}.",
        "Delete it, or give the steps a namespace of their own (EVERGREEN_NAMESPACE), then clear the task.",
    )


def _ending(pod: k8s.V1Pod | None, event: Mapping[str, Any], trouble: Exception | None) -> Ending:
    """Return how a pod ended: what the trigger saw, else what the pod tells, else the provider's exception."""
    if "ending" in event:
        return Ending.from_dict(event["ending"])
    seen = predecessor.ending(pod) if pod is not None else None
    return seen or Ending(None, str(event.get("message") or trouble or "its pod is gone"))
