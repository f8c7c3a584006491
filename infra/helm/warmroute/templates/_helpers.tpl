{{- define "warmroute.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "warmroute.labels" -}}
app.kubernetes.io/name: warmroute
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "warmroute.selector" -}}
app.kubernetes.io/name: warmroute
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "warmroute.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* Where Redis is: given, in a secret, or our own. Exactly one of them. */}}
{{- define "warmroute.redis" -}}
{{- $ways := 0 -}}
{{- if .Values.redis.url }}{{ $ways = add1 $ways }}{{ end -}}
{{- if .Values.redis.urlSecret.name }}{{ $ways = add1 $ways }}{{ end -}}
{{- if .Values.redis.deploy }}{{ $ways = add1 $ways }}{{ end -}}
{{- if ne (int $ways) 1 }}{{ fail "set exactly one of redis.url, redis.urlSecret and redis.deploy" }}{{ end -}}
- name: WARMROUTE_REDIS_URL
{{- if .Values.redis.urlSecret.name }}
  valueFrom: {secretKeyRef: {name: {{ .Values.redis.urlSecret.name | quote }}, key: {{ .Values.redis.urlSecret.key | quote }}}}
{{- else }}
  value: {{ .Values.redis.url | default (printf "redis://%s-redis:6379/0" (include "warmroute.name" .)) | quote }}
{{- end }}
{{- end -}}

{{/* What routers and agents have in common: Redis, the engines' key, a deployment's name in Redis. */}}
{{- define "warmroute.env" -}}
{{ include "warmroute.redis" . }}
- {name: WARMROUTE_DEPLOYMENT, value: {{ printf "%s.%s" .Release.Namespace .Release.Name | quote }}}
- {name: HOME, value: /tmp}
- {name: NUMBA_CACHE_DIR, value: /tmp/numba}
{{- include "warmroute.secretEnv" (list "WARMROUTE_ENGINE_API_KEY" .Values.engines.apiKeySecret) }}
{{- end -}}

{{- define "warmroute.secretEnv" -}}
{{- with index . 1 }}{{ if .name }}
- name: {{ index $ 0 }}
  valueFrom: {secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}}
{{- end }}{{ end }}
{{- end -}}

{{- define "warmroute.given" -}}
{{- range $name, $value := . }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{- define "warmroute.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "warmroute.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
