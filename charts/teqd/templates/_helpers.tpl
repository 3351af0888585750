{{- define "teqd.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimAll "-" -}}
{{- end -}}

{{/*
What all names begin with. A Service's is a DNS label with a letter first; a release's may have dots and begin with a
digit. 40 characters leave room for every suffix but a pool's.
*/}}
{{- define "teqd.fullname" -}}
{{- $name := include "teqd.name" . -}}
{{- $full := printf "%s-%s" .Release.Name $name -}}
{{- if .Values.fullnameOverride -}}
{{- $full = .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- $full = .Release.Name -}}
{{- end -}}
{{- if regexMatch "^[0-9]" $full -}}
{{- $full = printf "r-%s" $full -}}
{{- end -}}
{{- $full | replace "." "-" | trunc 40 | trimAll "-" -}}
{{- end -}}

{{/* What selects pods: these never change with an upgrade. */}}
{{- define "teqd.selector" -}}
app.kubernetes.io/name: {{ include "teqd.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "teqd.labels" -}}
{{ include "teqd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end -}}

{{- define "teqd.serverAccount" -}}
{{- default (printf "%s-server" (include "teqd.fullname" .)) .Values.server.serviceAccount.existingName -}}
{{- end -}}

{{- define "teqd.workerAccount" -}}
{{- default (printf "%s-worker" (include "teqd.fullname" .)) .Values.workers.serviceAccount.existingName -}}
{{- end -}}

{{- define "teqd.serverAddress" -}}
{{- printf "%s.%s.svc:%v" (include "teqd.fullname" .) .Release.Namespace .Values.server.service.grpcPort -}}
{{- end -}}

{{/* `over` laid on `under`, maps key by key, as YAML. Unlike mergeOverwrite, 0, false and "" count. */}}
{{- define "teqd.overlay" -}}
{{- $result := deepCopy .under -}}
{{- range $key, $value := .over -}}
{{- $below := get $result $key -}}
{{- if and (kindIs "map" $value) (kindIs "map" $below) -}}
{{- $value = include "teqd.overlay" (dict "under" $below "over" $value) | fromYaml -}}
{{- end -}}
{{- $_ := set $result $key $value -}}
{{- end -}}
{{- toYaml $result -}}
{{- end -}}

{{/* The pools with their defaults, each as YAML under its name. */}}
{{- define "teqd.pools" -}}
{{- $pools := dict -}}
{{- range $name, $pool := .Values.workers.pools -}}
{{- if $pool -}}
{{- $_ := set $pools $name (include "teqd.overlay" (dict "under" $.Values.poolDefaults "over" $pool) | fromYaml) -}}
{{- end -}}
{{- end -}}
{{- toYaml $pools -}}
{{- end -}}

{{/* What restricted pod security asks of a pod. */}}
{{- define "teqd.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* And of a container. */}}
{{- define "teqd.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* A URL of the object store, refused where the programs would refuse it. Takes `store`, `key` and `url`. */}}
{{- define "teqd.endpoint" -}}
{{- $isLoopback := regexMatch "^http://(localhost|127\\.[0-9.]*|\\[::1\\])(:[0-9]+)?(/|$)" .url -}}
{{- if and (hasPrefix "http://" .url) (not $isLoopback) (not .store.allowHttp) -}}
{{- fail (printf "objectStore.%s: %s is not encrypted; use https://, or set objectStore.allowHttp where the network is trusted" .key .url) -}}
{{- end -}}
{{- .url | quote -}}
{{- end -}}

{{/* Object stores and hubs, as environment variables. */}}
{{- define "teqd.storageEnvironment" -}}
{{- with .Values.objectStore -}}
- {name: AWS_EC2_METADATA_DISABLED, value: {{ not .instanceMetadata | quote }}}
{{- if .endpoint }}
- {name: AWS_ENDPOINT_URL_S3, value: {{ include "teqd.endpoint" (dict "store" . "key" "endpoint" "url" .endpoint) }}}
{{- end }}
{{- if .allowHttp }}
- {name: TEQ_S3_ALLOW_HTTP, value: "1"}
{{- end }}
{{- if .region }}
- {name: AWS_REGION, value: {{ .region | quote }}}
{{- end }}
{{- if .addressing }}
- {name: TEQ_S3_ADDRESSING, value: {{ .addressing | quote }}}
{{- end }}
{{- if .caConfigMap }}
- {name: AWS_CA_BUNDLE, value: /etc/teqd-ca/ca.crt}
{{- end }}
{{- if .credentialsSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ .credentialsSecret | quote }}, key: AWS_ACCESS_KEY_ID}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .credentialsSecret | quote }}, key: AWS_SECRET_ACCESS_KEY}}
- name: AWS_SESSION_TOKEN
  valueFrom: {secretKeyRef: {name: {{ .credentialsSecret | quote }}, key: AWS_SESSION_TOKEN, optional: true}}
{{- end }}
{{- if .webIdentity.roleArn }}
- {name: AWS_ROLE_ARN, value: {{ .webIdentity.roleArn | quote }}}
- {name: AWS_WEB_IDENTITY_TOKEN_FILE, value: /var/run/secrets/teqd/token}
- name: AWS_ROLE_SESSION_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- if .webIdentity.stsEndpoint }}
- {name: AWS_ENDPOINT_URL_STS, value: {{ include "teqd.endpoint" (dict "store" . "key" "webIdentity.stsEndpoint" "url" .webIdentity.stsEndpoint) }}}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.hub }}
{{- if .endpoint }}
- {name: HF_ENDPOINT, value: {{ .endpoint | quote }}}
{{- end }}
{{- if .tokenSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ .tokenSecret | quote }}, key: HF_TOKEN}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where the containers see what every pod mounts. */}}
{{- define "teqd.mounts" -}}
- {name: config, mountPath: /etc/teqd, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if .Values.sharedVolume.existingClaim }}
- {name: shared, mountPath: {{ .Values.sharedVolume.mountPath | quote }}}
{{- end }}
{{- if .Values.objectStore.caConfigMap }}
- {name: object-store-ca, mountPath: /etc/teqd-ca, readOnly: true}
{{- end }}
{{- if .Values.objectStore.webIdentity.roleArn }}
- {name: web-identity, mountPath: /var/run/secrets/teqd, readOnly: true}
{{- end }}
{{- end -}}

{{- define "teqd.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- if .Values.sharedVolume.existingClaim }}
- name: shared
  persistentVolumeClaim: {claimName: {{ .Values.sharedVolume.existingClaim | quote }}}
{{- end }}
{{- if .Values.objectStore.caConfigMap }}
- name: object-store-ca
  configMap: {name: {{ .Values.objectStore.caConfigMap | quote }}}
{{- end }}
{{- with .Values.objectStore.webIdentity }}
{{- if .roleArn }}
- name: web-identity
  projected:
    sources:
      - serviceAccountToken: {path: token, audience: {{ .audience | quote }}, expirationSeconds: 3600}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where a pod may run, of `server` or of a pool. */}}
{{- define "teqd.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "teqd.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}
