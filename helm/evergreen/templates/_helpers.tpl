{{/* Names, labels, images, and what every pod has in common. A helper that needs more than the root context takes a dict with "root". */}}

{{- define "evergreen.name" -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{- end }}

{{- define "evergreen.labels" -}}
app.kubernetes.io/part-of: evergreen
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "evergreen.metadata" -}}
name: {{ include "evergreen.name" .root }}-{{ .component }}
namespace: {{ .namespace | default .root.Release.Namespace }}
labels:
  {{- include "evergreen.labels" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "evergreen.image" -}}
{{- $image := index .root.Values.images .image -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}{{ else }}{{ $image.repository }}:{{ $image.tag }}{{ end -}}
{{- end }}

{{- define "evergreen.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.images.user }}
runAsGroup: {{ .Values.images.user }}
fsGroup: {{ .Values.images.user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "evergreen.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The head of a container: root, name, image, resources. */}}
{{- define "evergreen.container" -}}
name: {{ .name }}
image: {{ include "evergreen.image" . }}
imagePullPolicy: {{ .root.Values.images.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  {{- include "evergreen.containerSecurity" . | nindent 2 }}
resources:
  {{- toYaml (index .root.Values.resources .resources) | nindent 2 }}
{{- end }}

{{/* The head of a pod specification: root, component, role (its ServiceAccount), token, group (of scheduling), grace. */}}
{{- define "evergreen.pod" -}}
{{- $scheduling := index .root.Values.scheduling .group -}}
serviceAccountName: {{ include "evergreen.name" .root }}-{{ .role }}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false
{{- with .grace }}
terminationGracePeriodSeconds: {{ . }}
{{- end }}
{{- if and (ne .role "bootstrap") .root.Values.priorityClass.create }}
priorityClassName: {{ include "evergreen.name" .root }}-{{ eq .group "platform" | ternary "platform" "steps" }}
{{- end }}
securityContext:
  {{- include "evergreen.podSecurity" .root | nindent 2 }}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $scheduling.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $scheduling.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $selector := dict "matchLabels" (include "evergreen.labels" . | fromYaml) }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector: {{- toYaml $selector | nindent 6 }}
  {{- end }}
{{- end }}

{{/* Single replicas, and processes in them, in a trial: it has one node. */}}
{{- define "evergreen.replicas" -}}
{{- if .root.Values.trial.enabled }}1{{ else }}{{ .replicas }}{{ end -}}
{{- end }}

{{/* What every Deployment says: how long a rollout may take is how long docs/kubernetes.md lets Helm wait (--timeout). */}}
{{- define "evergreen.rollout" -}}
revisionHistoryLimit: 3
progressDeadlineSeconds: 1200
{{- end }}

{{/*
check (how to ask), start and live (how to ask whether it has started and still lives, where that is another question), ready
(whether a Service sends it requests). A busy node is no reason to kill: half an hour to start, since
who is killed half-way only makes it busier, and five minutes without an answer before what has run is called dead.
*/}}
{{- define "evergreen.probes" -}}
startupProbe: {{- merge (dict "periodSeconds" 10 "failureThreshold" 180 "timeoutSeconds" 10) (.start | default .check) | toYaml | nindent 2 }}
livenessProbe: {{- merge (dict "periodSeconds" 30 "failureThreshold" 10 "timeoutSeconds" 30) (.live | default .check) | toYaml | nindent 2 }}
{{- if .ready }}
readinessProbe: {{- merge (dict "periodSeconds" 10 "failureThreshold" 3 "timeoutSeconds" 10) .check | toYaml | nindent 2 }}
{{- end }}
{{- end }}

{{/* A variable from a Secret: name, secret, key. */}}
{{- define "evergreen.fromSecret" -}}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}}
{{- end }}

{{/* Keys of the object store, in a namespace where the Secret has them under their own names or not. */}}
{{- define "evergreen.platformKeys" -}}
{{- if .Values.objectStore.keys }}
{{ include "evergreen.fromSecret" (dict "name" "AWS_ACCESS_KEY_ID" "secret" .Values.secrets.platform "key" "s3-access-key-id") }}
{{ include "evergreen.fromSecret" (dict "name" "AWS_SECRET_ACCESS_KEY" "secret" .Values.secrets.platform "key" "s3-secret-access-key") }}
{{- end }}
{{- end }}

{{- define "evergreen.stepKeys" -}}
{{- if .Values.objectStore.keys }}
{{ include "evergreen.fromSecret" (dict "name" "AWS_ACCESS_KEY_ID" "secret" "evergreen-secrets" "key" "AWS_ACCESS_KEY_ID") }}
{{ include "evergreen.fromSecret" (dict "name" "AWS_SECRET_ACCESS_KEY" "secret" "evergreen-secrets" "key" "AWS_SECRET_ACCESS_KEY") }}
{{- end }}
{{- end }}

{{/* --- where things are ------------------------------------------------------------------------------------- */}}

{{- define "evergreen.databaseHost" -}}
{{- if .Values.trial.enabled }}{{ include "evergreen.name" . }}-postgres.{{ .Release.Namespace }}.svc{{ else }}{{ .Values.database.host }}{{ end -}}
{{- end }}

{{- define "evergreen.databasePort" -}}
{{- if .Values.trial.enabled }}5432{{ else }}{{ .Values.database.port }}{{ end -}}
{{- end }}

{{- define "evergreen.databaseQuery" -}}
sslmode={{ .Values.trial.enabled | ternary "disable" .Values.database.sslmode }}
{{- end }}

{{/* Where libpq finds the authority of the database's certificate: PGSSLROOTCERT. */}}
{{- define "evergreen.databaseAuthority" -}}
{{- if .Values.trial.enabled }}{{ else if .Values.database.rootCertificate }}{{ .Values.database.rootCertificate }}{{ else if .Values.caBundle }}/etc/evergreen/ca/ca.crt{{ end -}}
{{- end }}

{{/* The certificate authorities of caBundle, as each library wants to be told of them. */}}
{{- define "evergreen.authorities" -}}
{{- if .Values.caBundle }}
AWS_CA_BUNDLE: /etc/evergreen/ca/ca.crt
REQUESTS_CA_BUNDLE: /etc/evergreen/ca/ca.crt
SSL_CERT_FILE: /etc/evergreen/ca/ca.crt
{{- end }}
{{- with include "evergreen.databaseAuthority" . }}
PGSSLROOTCERT: {{ . }}
{{- end }}
{{- end }}

{{- define "evergreen.authoritiesEnv" -}}
{{- range $name, $value := include "evergreen.authorities" . | fromYaml }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "evergreen.authoritiesMount" -}}
{{- if .Values.caBundle }}
- {name: ca, mountPath: /etc/evergreen/ca, readOnly: true}
{{- end }}
{{- end }}

{{- define "evergreen.authoritiesVolume" -}}
{{- if .Values.caBundle }}
- {name: ca, configMap: {name: evergreen-ca}}
{{- end }}
{{- end }}

{{/* The certificate that a server of the platform shows. */}}
{{- define "evergreen.certificateMount" -}}
{{- if .Values.tls.secret }}
- {name: certificate, mountPath: /etc/evergreen/tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "evergreen.certificateVolume" -}}
{{- with .Values.tls.secret }}
- {name: certificate, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- end }}

{{- define "evergreen.scheme" -}}
{{- if .Values.tls.secret }}https{{ else }}http{{ end -}}
{{- end }}

{{/* A database's address without its password, which libpq takes from PGPASSWORD: root, user, database. */}}
{{- define "evergreen.database" -}}
postgresql+psycopg://{{ index .root.Values.database.users .user }}@{{ include "evergreen.databaseHost" .root }}:{{ include "evergreen.databasePort" .root }}/{{ .database }}?{{ include "evergreen.databaseQuery" .root }}
{{- end }}

{{- define "evergreen.endpoint" -}}
{{- if .Values.trial.enabled }}http://{{ include "evergreen.name" . }}-seaweedfs.{{ .Release.Namespace }}.svc:8333{{ else }}{{ .Values.objectStore.endpoint }}{{ end -}}
{{- end }}

{{- define "evergreen.endpointPort" -}}
{{- $endpoint := include "evergreen.endpoint" . -}}
{{- $host := (urlParse ($endpoint | default "https://s3")).host -}}
{{- if contains ":" $host }}{{ last (splitList ":" $host) }}{{ else if hasPrefix "http://" $endpoint }}80{{ else }}443{{ end -}}
{{- end }}

{{- define "evergreen.bucket" -}}
{{- if .Values.trial.enabled }}evergreen{{ else }}{{ .Values.objectStore.bucket }}{{ end -}}
{{- end }}

{{- define "evergreen.root" -}}
s3://{{ include "evergreen.bucket" . }}{{ with .Values.objectStore.prefix }}/{{ . }}{{ end }}
{{- end }}

{{- define "evergreen.mlflowUrl" -}}
{{ include "evergreen.scheme" . }}://{{ include "evergreen.name" . }}-mlflow.{{ .Release.Namespace }}.svc:5000
{{- end }}

{{- define "evergreen.apiServerUrl" -}}
{{ include "evergreen.scheme" . }}://{{ include "evergreen.name" . }}-api-server.{{ .Release.Namespace }}.svc:8080
{{- end }}

{{- define "evergreen.rayHead" -}}
{{ include "evergreen.name" . }}-ray{{ if .Values.ray.kuberay.enabled }}-head-svc{{ else }}-head{{ end }}.{{ .Values.stepNamespace.name }}.svc
{{- end }}

{{/* What the steps, Ray and Airflow are told: the content of ConfigMap evergreen-settings. */}}
{{- define "evergreen.settings" -}}
EVERGREEN_RUNTIME: kubernetes
EVERGREEN_NAMESPACE: {{ .Values.stepNamespace.name }}
EVERGREEN_STEP_IMAGE: {{ include "evergreen.image" (dict "root" . "image" "step") }}
EVERGREEN_POD_SERVICE_ACCOUNT: {{ include "evergreen.name" . }}-step
EVERGREEN_STATE_DIR: /tmp/evergreen
EVERGREEN_ARTIFACT_ROOT: {{ include "evergreen.root" . }}/artifacts
EVERGREEN_LAKE_ROOT: {{ include "evergreen.root" . }}/lake
EVERGREEN_MLFLOW_TRACKING_URI: {{ include "evergreen.mlflowUrl" . }}
MLFLOW_TRACKING_URI: {{ include "evergreen.mlflowUrl" . }}
{{- if .Values.ray.enabled }}
EVERGREEN_RAY_ADDRESS: ray://{{ include "evergreen.rayHead" . }}:10001
RAY_AUTH_MODE: token
{{- end }}
{{- with include "evergreen.endpoint" . }}
EVERGREEN_S3_ENDPOINT: {{ . }}
AWS_ENDPOINT_URL_S3: {{ . }}
{{- end }}
AWS_DEFAULT_REGION: {{ .Values.objectStore.region }}
AWS_REGION: {{ .Values.objectStore.region }}
HOME: /tmp
DO_NOT_TRACK: "1"
FEAST_USAGE: "False"
GX_ANALYTICS_ENABLED: "false"
MLFLOW_DISABLE_TELEMETRY: "true"
RAY_TRAIN_V2_ENABLED: "1"
RAY_USAGE_STATS_ENABLED: "0"
SCARF_ANALYTICS: "false"
{{- include "evergreen.authorities" . }}
{{- with .Values.settings }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A pod that reads the settings when it starts is started anew when they change. */}}
{{- define "evergreen.settingsChecksum" -}}
checksum/settings: {{ include "evergreen.settings" . | sha256sum }}
{{- end }}

{{/* What every step pod gets of this cluster: read by the StepOperator from EVERGREEN_POD_FILE. */}}
{{- define "evergreen.stepPods" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.priorityClass.create }}
priorityClassName: {{ include "evergreen.name" . }}-steps
{{- end }}
{{- with .Values.scheduling.steps.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.scheduling.steps.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.caBundle }}
caConfigMap: evergreen-ca
{{- end }}
{{- with .Values.profiles }}
profiles: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "evergreen.settingsEnv" -}}
{{- range $name, $value := include "evergreen.settings" . | fromYaml }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* One pod at a time; a minimum would make a single replica's node impossible to drain. */}}
{{- define "evergreen.disruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "evergreen.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow  # pods that are not ready serve nobody, and would keep their node from being drained
  selector:
    matchLabels:
      {{- include "evergreen.labels" . | nindent 6 }}
{{- end }}

{{/* root, autoscaling (the values of one component). */}}
{{- define "evergreen.autoscaled" -}}
{{- if and .autoscaling.enabled (not .root.Values.trial.enabled) }}true{{ end -}}
{{- end }}

{{/* root, component, namespace, autoscaling. */}}
{{- define "evergreen.autoscaler" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "evergreen.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "evergreen.name" .root }}-{{ .component }}}
  minReplicas: {{ .autoscaling.minReplicas }}
  maxReplicas: {{ .autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ .autoscaling.targetCPU }}}
{{- end }}

{{/*
With servers of your own the bootstrap is a hook: it ends before anything of this version starts. A trial's servers are
part of the release, so there it is a plain Job (a new one for each revision), and the pods wait for what it does.
*/}}
{{- define "evergreen.bootstrapIsHook" -}}
{{- if not .Values.trial.enabled }}true{{ end -}}
{{- end }}

{{- define "evergreen.hook" -}}
{{- if include "evergreen.bootstrapIsHook" .root }}
annotations:
  helm.sh/hook: pre-install,pre-upgrade
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation
{{- end }}
{{- end }}
