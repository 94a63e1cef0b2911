{{/* Ray has no user but whoever holds its token, and no certificate: the network policies and the token guard it. */}}

{{/* The pod of a head or a worker: root, kind. The same under KubeRay and without it. */}}
{{- define "evergreen.ray.pod" -}}
{{- $head := eq .kind "head" -}}
{{- $workers := .root.Values.ray.workers -}}
{{- include "evergreen.pod" (dict "root" .root "component" (printf "ray-%s" .kind) "role" "ray" "group" "ray" "grace" .root.Values.terminationGracePeriodSeconds.ray) }}
containers:
  - {{- include "evergreen.container" (dict "root" .root "name" (printf "ray-%s" .kind) "image" "step" "resources" (ternary "rayHead" "rayWorker" $head)) | nindent 4 }}
    command:
      - ray
      - start
      {{- if $head }}
      - --head
      - --port=6379
      - --ray-client-server-port=10001
      - --include-dashboard=false
      - --num-cpus=0  # training runs on the workers
      - --num-gpus=0
      {{- else }}
      - --address={{ include "evergreen.rayHead" .root }}:6379
      - --num-cpus={{ $workers.cpus }}
      - --num-gpus={{ $workers.gpus }}
      {{- end }}
      - --node-manager-port=6380
      - --object-manager-port=6381
      - --disable-usage-stats
      - --block
    envFrom:
      - configMapRef: {name: evergreen-settings}
    env:
      # The head starts a process for each driver by forking itself between gRPC's threads; with gRPC's fork handlers on,
      # now and then (ray-project/ray#63202) the new process crashes and the driver is turned away.
      - {name: GRPC_ENABLE_FORK_SUPPORT, value: "0"}
      # Also in the settings, but the container that KubeRay lets wait for the head gets this list alone.
      - {name: RAY_AUTH_MODE, value: token}
      {{- include "evergreen.fromSecret" (dict "name" "RAY_AUTH_TOKEN" "secret" "evergreen-secrets" "key" "RAY_AUTH_TOKEN") | nindent 6 }}
      {{- include "evergreen.stepKeys" .root | nindent 6 }}
    ports:
      - {name: node-manager, containerPort: 6380}
      {{- if $head }}
      - {name: gcs-server, containerPort: 6379}
      - {name: client, containerPort: 10001}
      {{- end }}
    {{- $check := dict "tcpSocket" (dict "port" (ternary "client" "node-manager" $head)) }}
    {{- /* both answer to gRPC's health protocol, without a token; "ray health-check" would start a Python of two seconds */}}
    {{- $live := dict "grpc" (dict "port" (ternary 6379 6380 $head)) }}
    {{- include "evergreen.probes" (dict "check" $check "live" $live "ready" true) | nindent 4 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: shm, mountPath: /dev/shm}
      {{- include "evergreen.authoritiesMount" .root | nindent 6 }}
volumes:
  {{- include "evergreen.authoritiesVolume" .root | nindent 2 }}
  - {name: tmp, emptyDir: {sizeLimit: 20Gi}}
  - {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ index .root.Values.resources (ternary "rayHead" "rayWorker" $head) "requests" "memory" }}}}
{{- end }}
