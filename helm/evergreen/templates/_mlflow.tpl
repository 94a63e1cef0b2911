{{/* No password here: libpq has it from PGPASSWORD, MLflow from MLFLOW_AUTH_ADMIN_PASSWORD. */}}
{{- define "evergreen.mlflow.auth" -}}
[mlflow]
default_permission = READ
database_uri = {{ include "evergreen.database" (dict "root" . "user" "mlflow" "database" "mlflow_auth") | replace "%" "%%" }}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
{{- end }}

{{/* The Host headers MLflow answers to: its Service, the ingress, and what values add; anything else could be DNS rebinding. */}}
{{- define "evergreen.mlflow.hosts" -}}
{{- $name := printf "%s-mlflow" (include "evergreen.name" .) -}}
{{- $own := list "localhost" "localhost:*" "127.0.0.1" "127.0.0.1:*" -}}
{{- range list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) -}}
{{- $own = concat $own (list (printf "%s:5000" .)) -}}
{{- end -}}
{{- if .Values.ingress.enabled }}{{ $own = append $own .Values.ingress.mlflow.host }}{{ end -}}
{{- join "," (compact (concat $own .Values.mlflow.allowedHosts)) -}}
{{- end }}

{{/* Whose pages may change something, as browsers name them: MLflow refuses the Origin even of its own host but for localhost. */}}
{{- define "evergreen.mlflow.origins" -}}
{{- $origins := list -}}
{{- $ingress := .Values.ingress.mlflow -}}
{{- if and .Values.ingress.enabled $ingress.host -}}
{{- $origins = append $origins (printf "https://%s" $ingress.host) -}}
{{- if not $ingress.tlsSecret }}{{ $origins = append $origins (printf "http://%s" $ingress.host) }}{{ end -}}
{{- end -}}
{{- range .Values.mlflow.allowedHosts -}}
{{- if not (contains "*" .) }}{{ $origins = concat $origins (list (printf "https://%s" .) (printf "http://%s" .)) }}{{ end -}}
{{- end -}}
{{- join "," (uniq $origins) -}}
{{- end }}

{{- define "evergreen.mlflow.databaseEnv" -}}
- {name: MLFLOW_BACKEND_STORE_URI, value: {{ include "evergreen.database" (dict "root" . "user" "mlflow" "database" "mlflow") | quote }}}
- {name: EVERGREEN_MLFLOW_AUTH_URI, value: {{ include "evergreen.database" (dict "root" . "user" "mlflow" "database" "mlflow_auth") | quote }}}
{{ include "evergreen.fromSecret" (dict "name" "PGPASSWORD" "secret" .Values.secrets.platform "key" "mlflow-database-password") }}
{{- end }}

{{- define "evergreen.mlflow.adminEnv" -}}
{{ include "evergreen.fromSecret" (dict "name" "MLFLOW_AUTH_ADMIN_PASSWORD" "secret" .Values.secrets.platform "key" "mlflow-admin-password") }}
{{- end }}
