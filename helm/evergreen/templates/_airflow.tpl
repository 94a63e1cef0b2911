{{/* What the Airflow components have in common. */}}

{{- define "evergreen.airflow.project" -}}
{{- if .Values.dags.gitSync.enabled }}/git/current{{ else }}{{ .Values.images.projectDir }}{{ end -}}
{{- end }}

{{/* Options without a secret, for every component and for the workers. */}}
{{- define "evergreen.airflow.options" -}}
{{- $project := include "evergreen.airflow.project" . -}}
AIRFLOW_HOME: /opt/airflow
PYTHONPATH: {{ $project }}/include:{{ $project }}/plugins:{{ $project }}/config
PYTHONDONTWRITEBYTECODE: "1"
AIRFLOW__CORE__AUTH_MANAGER: {{ .Values.airflow.authManager }}
AIRFLOW__CORE__COMPRESS_SERIALIZED_DAGS: "True"  # the asset graph: its query on plain JSON is none that psycopg 3 can send
AIRFLOW__CORE__DAGS_FOLDER: {{ $project }}/dags
AIRFLOW__CORE__PLUGINS_FOLDER: {{ $project }}/plugins
AIRFLOW__CORE__EXECUTOR: {{ .Values.airflow.executor }}
AIRFLOW__CORE__EXECUTION_API_SERVER_URL: {{ include "evergreen.apiServerUrl" . }}/execution/
AIRFLOW__CORE__HOSTNAME_CALLABLE: airflow.utils.net.get_host_ip_address  # pods of a Deployment have no DNS name
AIRFLOW__CORE__LOAD_EXAMPLES: "False"
AIRFLOW__CORE__PARALLELISM: {{ .Values.airflow.parallelism | quote }}
AIRFLOW__API__BASE_URL: {{ .Values.airflow.baseUrl }}
AIRFLOW__API__INSTANCE_NAME: Evergreen
AIRFLOW__API__WORKERS: {{ include "evergreen.replicas" (dict "root" . "replicas" .Values.airflow.apiServer.workers) | quote }}
AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH: /opt/airflow/bundles
AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL: "30"  # the default, 300 s, hides new files
AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME: "21600"  # a task may wait in the queue longer than the default 10 minutes
AIRFLOW__LOGGING__BASE_LOG_FOLDER: /opt/airflow/logs
AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY: /opt/airflow/logs/dag_processor
{{- if .Values.logging.remote }}
AIRFLOW__LOGGING__REMOTE_LOGGING: "True"
AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER: {{ include "evergreen.root" . }}/logs
AIRFLOW__LOGGING__DELETE_LOCAL_LOGS: "True"
{{- end }}
AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL: "30"
AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME: "0.5"
AIRFLOW__TRIGGERER__CAPACITY: {{ .Values.airflow.triggerer.capacity | quote }}
AIRFLOW__WORKERS__EXECUTION_API_RETRIES: "12"  # tasks ride out a restart of the API server
AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX: "5"
AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS: "30"
AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL: "1"  # the default, 5 s, holds a finished task's slot that long
# told, not found out: the triggerer's hook looks for nothing but a kubeconfig, and no pod has one
AIRFLOW_CONN_KUBERNETES_DEFAULT: '{"conn_type": "kubernetes", "extra": {"in_cluster": true}}'
EVERGREEN_POD_FILE: /etc/evergreen/pods/pods.yaml
{{- if .Values.tls.secret }}
AIRFLOW__API__SSL_CA_FILE: /etc/evergreen/ca/ca.crt
{{- end }}
{{- if eq .Values.airflow.executor "KubernetesExecutor" }}
AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE: {{ .Values.stepNamespace.name }}
AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE: /opt/evergreen-worker/pod.yaml
AIRFLOW__KUBERNETES_EXECUTOR__WORKER_PODS_CREATION_BATCH_SIZE: "16"  # the default is one in each of its loops
AIRFLOW__KUBERNETES_EXECUTOR__TASK_PUBLISH_MAX_RETRIES: "-1"  # the default fails a task at once when the quota is used up
AIRFLOW__KUBERNETES_EXECUTOR__DELETE_WORKER_PODS_ON_FAILURE: "True"  # nobody else deletes them; their logs are kept
{{- end }}
{{- $exporter := include "evergreen.airflow.exporter" . }}
{{- if eq $exporter "otel" }}
AIRFLOW__METRICS__OTEL_ON: "True"
AIRFLOW__METRICS__OTEL_HOST: {{ .Values.metrics.host }}
AIRFLOW__METRICS__OTEL_PORT: {{ .Values.metrics.port | quote }}
AIRFLOW__METRICS__OTEL_SSL_ACTIVE: {{ .Values.metrics.tls | ternary "True" "False" | quote }}
{{- else if eq $exporter "statsd" }}
AIRFLOW__METRICS__STATSD_ON: "True"
AIRFLOW__METRICS__STATSD_HOST: {{ .Values.metrics.host }}
AIRFLOW__METRICS__STATSD_PORT: {{ .Values.metrics.port | quote }}
{{- end }}
{{- with .Values.airflow.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "evergreen.airflow.exporter" -}}
{{- if and .Values.trial.enabled (not .Values.metrics.host) }}none{{ else }}{{ .Values.metrics.exporter }}{{ end -}}
{{- end }}

{{/* Settings and options as a container's variables; the options win. HOME is the one of Airflow. */}}
{{- define "evergreen.airflow.plainEnv" -}}
{{- $settings := include "evergreen.settings" . | fromYaml -}}
{{- $own := dict "HOME" "/opt/airflow" -}}
{{- if .Values.dags.gitSync.enabled }}{{ $_ := set $own "EVERGREEN_MODELS_DIR" "/git/current/include/models" }}{{ end -}}
{{- $options := include "evergreen.airflow.options" . | fromYaml -}}
{{- range $name, $value := mergeOverwrite $settings $own $options }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* The same for the bootstrap, which has the image's files only. */}}
{{- define "evergreen.airflow.imageEnv" -}}
{{- $values := mergeOverwrite (deepCopy .Values) (dict "dags" (dict "gitSync" (dict "enabled" false))) -}}
{{- include "evergreen.airflow.plainEnv" (dict "Values" $values "Release" .Release "Chart" .Chart "Template" .Template) -}}
{{- end }}

{{/* The metadata database; the password goes to libpq. */}}
{{- define "evergreen.airflow.databaseEnv" -}}
{{- $url := include "evergreen.database" (dict "root" . "user" "airflow" "database" "airflow") -}}
- {name: AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, value: {{ $url | quote }}}
- {name: AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC, value: {{ $url | quote }}}
# `evergreen history` and `evergreen audit` in a component: its role may read the audit log
- {name: EVERGREEN_AUDIT_DATABASE_URL, value: {{ include "evergreen.database" (dict "root" . "user" "airflow" "database" "audit") | quote }}}
{{ include "evergreen.fromSecret" (dict "name" "PGPASSWORD" "secret" .Values.secrets.platform "key" "airflow-database-password") }}
{{- if .Values.trial.enabled }}
{{ include "evergreen.fromSecret" (dict "name" "EVERGREEN_VERIFICATION_KEYS" "secret" .Values.secrets.platform "key" "signing-certificate") }}
{{- end }}
{{ include "evergreen.fromSecret" (dict "name" "AIRFLOW__CORE__FERNET_KEY" "secret" .Values.secrets.platform "key" "airflow-fernet-key") }}
{{- end }}

{{/* The key that signs what components say to each other: tasks' tokens and the requests for logs. */}}
{{- define "evergreen.airflow.signingEnv" -}}
{{ include "evergreen.fromSecret" (dict "name" "AIRFLOW__API_AUTH__JWT_SECRET" "secret" .Values.secrets.platform "key" "airflow-jwt-secret") }}
{{ include "evergreen.fromSecret" (dict "name" "AIRFLOW__API__SECRET_KEY" "secret" .Values.secrets.platform "key" "airflow-api-secret-key") }}
{{- end }}

{{- define "evergreen.airflow.volumes" -}}
- {name: home, emptyDir: {sizeLimit: 10Gi}}
- {name: tmp, emptyDir: {sizeLimit: 2Gi}}
- {name: pods, configMap: {name: {{ include "evergreen.name" . }}-pods}}
{{- include "evergreen.authoritiesVolume" . }}
{{- if .Values.dags.gitSync.enabled }}
- {name: git, emptyDir: {sizeLimit: 1Gi}}
{{- with .Values.dags.gitSync.existingSecret }}
- {name: git-key, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- end }}
{{- end }}

{{- define "evergreen.airflow.mounts" -}}
- {name: home, mountPath: /opt/airflow}
- {name: tmp, mountPath: /tmp}
- {name: pods, mountPath: /etc/evergreen/pods, readOnly: true}
{{- include "evergreen.authoritiesMount" . }}
{{- if .Values.dags.gitSync.enabled }}
- {name: git, mountPath: /git, readOnly: true}
{{- end }}
{{- end }}

{{/* Nothing starts before the tables have the form that this version expects. */}}
{{- define "evergreen.airflow.waitForMigrations" -}}
- {{- include "evergreen.container" (dict "root" .root "name" "wait-for-migrations" "image" "airflow" "resources" .resources) | nindent 2 }}
  {{- if include "evergreen.bootstrapIsHook" .root }}
  command: [airflow, db, check-migrations, --migration-wait-timeout=600]
  {{- else }}
  # check-migrations alone fails, and is started again ever later, until there are a server, a role and a database
  command: [sh, -c, airflow db check --retry=200 --retry-delay=3 && exec airflow db check-migrations --migration-wait-timeout=600]
  {{- end }}
  env:
    {{- include "evergreen.airflow.plainEnv" .root | nindent 4 }}
    {{- include "evergreen.airflow.databaseEnv" .root | nindent 4 }}
  volumeMounts:
    {{- include "evergreen.airflow.mounts" .root | nindent 4 }}
{{- end }}

{{/* git-sync: root, once (true: an init container that waits for the first checkout). */}}
{{- define "evergreen.airflow.gitSync" -}}
{{- $sync := .root.Values.dags.gitSync -}}
{{- $container := include "evergreen.container" (dict "root" .root "name" (ternary "git-clone" "git-sync" .once) "image" "gitSync" "resources" "gitSync") | fromYaml -}}
{{- /* the user that git-sync's image knows: ssh asks for its name; the group (fsGroup) is everybody's */ -}}
{{- $_ := set $container.securityContext "runAsUser" 65533 -}}
- {{- toYaml $container | nindent 2 }}
  args:
    - --repo={{ $sync.repository }}
    - --ref={{ $sync.ref }}
    - --root=/git
    - --link=current
    - --depth=1
    - --max-failures={{ ternary 3 -1 .once }}
    {{- if .once }}
    - --one-time
    {{- else }}
    - --period={{ $sync.period }}
    - --http-bind=:1234
    {{- end }}
    {{- if $sync.existingSecret }}
    - --ssh-key-file=/etc/git-secret/ssh
    - --ssh-known-hosts-file=/etc/git-secret/known_hosts
    {{- end }}
  env:
    - {name: HOME, value: /tmp}
  {{- if not .once }}
  livenessProbe:
    httpGet: {path: /, port: 1234}
    periodSeconds: 60
    timeoutSeconds: 10
    failureThreshold: 10
  {{- end }}
  volumeMounts:
    - {name: git, mountPath: /git}
    - {name: tmp, mountPath: /tmp}
    {{- if $sync.existingSecret }}
    - {name: git-key, mountPath: /etc/git-secret, readOnly: true}
    {{- end }}
{{- end }}

{{/* Does the component's main loop turn? It touches a file (config/airflow_local_settings.py); database and API may be away. */}}
{{- define "evergreen.airflow.jobProbes" -}}
{{- $command := list "python" "-I" "-S" "-c" (.Files.Get "files/alive.py") (include "evergreen.airflow.heartbeatFile" .) "300" -}}
{{- include "evergreen.probes" (dict "check" (dict "exec" (dict "command" $command))) }}
{{- end }}

{{- define "evergreen.airflow.heartbeatFile" -}}/tmp/heartbeat{{- end }}
