{{/* Whether there is a server of predictions: where it is switched on, and in a trial unless that leaves it out. */}}
{{- define "evergreen.serving.enabled" -}}
{{- if or .Values.serving.enabled (and .Values.trial.enabled .Values.trial.serving) }}true{{ end -}}
{{- end }}

{{/* What it is told: the settings of the steps, and its own. */}}
{{- define "evergreen.serving.env" -}}
{{- $serving := .Values.serving -}}
{{- $own := dict
  "EVERGREEN_STATE_DIR" "/var/lib/evergreen"
  "EVERGREEN_SERVING_DRAIN_SECONDS" ($serving.drainSeconds | toString)
  "EVERGREEN_SERVING_OPEN_METRICS" ($serving.metrics.open | toString) -}}
{{- with $serving.otlpEndpoint }}{{ $_ := set $own "OTEL_EXPORTER_OTLP_ENDPOINT" . }}{{ end -}}
{{- $settings := omit (include "evergreen.settings" . | fromYaml) "EVERGREEN_RAY_ADDRESS" "RAY_AUTH_MODE" -}}
{{- range $name, $value := mergeOverwrite $settings $own $serving.extraEnv }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- $keys := list "EVERGREEN_DATABASE_URL" "EVERGREEN_SERVING_MASK_KEY" "MLFLOW_TRACKING_USERNAME" "MLFLOW_TRACKING_PASSWORD" -}}
{{- if .Values.objectStore.keys }}{{ $keys = concat $keys (list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY") }}{{ end -}}
{{- if .Values.trial.enabled }}{{ $keys = append $keys "EVERGREEN_VERIFICATION_KEYS" }}{{ end -}}
{{- range $keys }}
{{ include "evergreen.fromSecret" (dict "name" . "secret" $.Values.secrets.serving "key" .) }}
{{- end }}
{{- end }}
