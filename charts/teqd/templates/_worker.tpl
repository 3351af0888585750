{{/* worker.yaml of a pool. Takes `root` and `pool`. */}}
{{- define "teqd.workerConfig" -}}
server: {{ include "teqd.serverAddress" .root | quote }}
http: "0.0.0.0:9471"
data: /var/lib/teqd
cache_gib: {{ .pool.data.cacheGib | int64 }}
threads: {{ .pool.threads | int64 }}
uri_prefixes: {{ .root.Values.uriPrefixes | toJson }}
log_format: {{ .root.Values.logFormat }}
{{- if eq .pool.device "gaudi" }}
hpu_plugin: {{ .pool.gaudi.plugin | quote }}
{{- end }}
{{- end -}}

{{/* What a pool's pods ask for: `resources` and the device. */}}
{{- define "teqd.workerResources" -}}
{{- $device := dict -}}
{{- if eq .device "cuda" -}}
{{- $device = dict "nvidia.com/gpu" 1 -}}
{{- else if eq .device "gaudi" -}}
{{- $device = dict "habana.ai/gaudi" 1 "hugepages-2Mi" .gaudi.hugepages -}}
{{- end -}}
{{- $resources := deepCopy .resources -}}
{{- $_ := set $resources "limits" (merge (deepCopy $device) (default dict $resources.limits)) -}}
{{- $_ := set $resources "requests" (merge (deepCopy $device) (default dict $resources.requests)) -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* What a pool's objects are called. Takes `root` and `name`. */}}
{{- define "teqd.workerName" -}}
{{- printf "%s-worker-%s" (include "teqd.fullname" .root) .name -}}
{{- end -}}

{{/*
What a pool's Job or CronJob is called. Kubernetes takes 52 characters of a CronJob and 63 of a Job, whose name ends in
the revision. A longer one keeps the whole pool, and a digest tells releases apart that begin alike. Takes `root` and
`name`.
*/}}
{{- define "teqd.workerJobName" -}}
{{- $name := include "teqd.workerName" . -}}
{{- if gt (len $name) 52 -}}
{{- $full := include "teqd.fullname" .root -}}
{{- $name = printf "%s-%s-worker-%s" ($full | trunc 19 | trimAll "-") ($full | sha256sum | trunc 8) .name -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* A pod of a pool. Takes `root`, `name` and `pool`. */}}
{{- define "teqd.workerPod" -}}
{{- $root := .root -}}
{{- $pool := .pool -}}
{{- $batch := eq $pool.mode "job" -}}
metadata:
  labels: {{- include "teqd.labels" $root | nindent 4 }}
    app.kubernetes.io/component: worker
    teqd/pool: {{ .name }}
    {{- with $pool.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    checksum/config: {{ include "teqd.workerConfig" . | sha256sum }}
    {{- with $pool.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "teqd.workerAccount" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with include "teqd.pullSecrets" $root }}{{ . | nindent 2 }}{{ end }}
  terminationGracePeriodSeconds: {{ $pool.terminationGracePeriodSeconds }}
  {{- if $batch }}
  restartPolicy: Never
  {{- end }}
  {{- with $pool.runtimeClassName }}
  runtimeClassName: {{ . | quote }}
  {{- end }}
  {{- if eq $pool.device "gaudi" }}
  # The Gaudi runtime's shared memory; outside restricted pod security, as SYS_NICE below is.
  hostIPC: true
  {{- end }}
  securityContext: {{- include "teqd.podSecurity" $root | nindent 4 }}
  containers:
    - name: worker
      image: "{{ $pool.image.repository | default (printf "teqd-worker-%s" $pool.device) }}:{{ $pool.image.tag | default $root.Chart.AppVersion }}"
      imagePullPolicy: {{ $pool.image.pullPolicy }}
      args:
        - --config
        - /etc/teqd/worker.yaml
        {{- if $batch }}
        {{- if $pool.job.maxJobs }}
        - --max-jobs={{ $pool.job.maxJobs | int64 }}
        {{- end }}
        {{- if $pool.job.exitWhenIdle }}
        - --exit-when-idle
        {{- end }}
        {{- end }}
      env: {{- include "teqd.storageEnvironment" $root | nindent 8 }}
      ports:
        - {name: metrics, containerPort: 9471}
      # No liveness probe: a worker that falls silent loses its lease, and the job goes to another. A probe that failed
      # while the machine is busy with training would end that training.
      readinessProbe:
        httpGet: {path: /metrics, port: metrics}
        periodSeconds: 10
        timeoutSeconds: 5
      resources: {{- include "teqd.workerResources" $pool | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        runAsNonRoot: true
        capabilities:
          drop: [ALL]
          {{- if eq $pool.device "gaudi" }}
          add: [SYS_NICE]
          {{- end }}
      volumeMounts:
        - {name: data, mountPath: /var/lib/teqd}
        {{- include "teqd.mounts" $root | nindent 8 }}
  volumes:
    - name: config
      configMap: {name: {{ include "teqd.fullname" $root }}-worker-{{ .name }}}
    {{- include "teqd.volumes" $root | nindent 4 }}
    - name: data
      {{- if $pool.data.storageClass }}
      ephemeral:
        volumeClaimTemplate:
          spec:
            accessModes: [ReadWriteOnce]
            storageClassName: {{ $pool.data.storageClass | quote }}
            resources: {requests: {storage: {{ $pool.data.size | quote }}}}
      {{- else }}
      emptyDir: {sizeLimit: {{ $pool.data.size | quote }}}
      {{- end }}
  {{- with include "teqd.placement" $pool }}{{ . | nindent 2 }}{{ end }}
{{- end -}}

{{/* The spec of a batch Job of a pool. Takes `root`, `name` and `pool`. */}}
{{- define "teqd.workerJob" -}}
{{- $job := .pool.job -}}
{{- with $job.kueueQueue -}}
# Kueue starts it.
suspend: true
{{ end -}}
parallelism: {{ $job.parallelism | int64 }}
completions: {{ $job.parallelism | int64 }}
backoffLimit: {{ $job.backoffLimit | int64 }}
{{- with $job.activeDeadlineSeconds }}
activeDeadlineSeconds: {{ . | int64 }}
{{- end }}
ttlSecondsAfterFinished: {{ $job.ttlSecondsAfterFinished | int64 }}
# A worker ends with 0 whenever it told the server the outcome, whatever that was: the queue retries jobs, this only pods.
podFailurePolicy:
  rules:
    # A node's drain or preemption.
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget, status: "True"}]
    # 30: it lost its lease, and the job is another's; 143: it was told to stop at once.
    - action: Ignore
      onExitCodes: {containerName: worker, operator: In, values: [30, 143]}
    # 1: the server refuses it; 2: its configuration is wrong. Another pod would fare no better.
    - action: FailJob
      onExitCodes: {containerName: worker, operator: In, values: [1, 2]}
    # 20: the server could not be reached.
    - action: Count
      onExitCodes: {containerName: worker, operator: In, values: [20]}
template: {{- include "teqd.workerPod" . | nindent 2 }}
{{- end -}}
