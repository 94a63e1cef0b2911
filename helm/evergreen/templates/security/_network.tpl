{{- define "evergreen.net.namespace" -}}
{{- if has .component (list "steps" "ray-head" "ray-worker" "worker" "feast-online") }}{{ .root.Values.stepNamespace.name }}{{ else }}{{ .root.Release.Namespace }}{{ end -}}
{{- end }}

{{/* Step pods are made by the StepOperator, which labels them so. */}}
{{- define "evergreen.net.labels" -}}
{{- if eq .component "steps" -}}
app.kubernetes.io/name: evergreen-step
{{- else -}}
{{ include "evergreen.labels" . }}
{{- end }}
{{- end }}

{{- define "evergreen.net.peer" -}}
{{- if hasPrefix "cidr:" .component }}
{{- range index .root.Values.networkPolicies (trimPrefix "cidr:" .component) }}
- ipBlock: {cidr: {{ . }}}
{{- end }}
{{- with index .root.Values.networkPolicies (printf "%sPeers" (trimSuffix "Cidrs" (trimPrefix "cidr:" .component))) }}
{{ toYaml . }}
{{- end }}
{{- else -}}
- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ include "evergreen.net.namespace" . }}}}
  podSelector:
    matchLabels:
      {{- include "evergreen.net.labels" . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "evergreen.net.port" -}}
- port: {{ .port }}
  protocol: {{ .protocol | default "TCP" }}
  {{- with .endPort }}
  endPort: {{ . }}
  {{- end }}
{{- end }}

{{/* Where names are asked for. */}}
{{- define "evergreen.net.names" -}}
{{- $net := .Values.networkPolicies -}}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
    {{- range $net.dnsCidrs }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
    {{- with $net.dnsPeers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    {{- range $net.dnsPorts }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end }}
