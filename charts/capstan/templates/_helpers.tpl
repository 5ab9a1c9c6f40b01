{{- define "capstan.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/*
The name of objects. 50 characters leave room for what is appended. A release may have dots in its name, a
Service may not.
*/}}
{{- define "capstan.fullname" -}}
{{- $name := include "capstan.name" . -}}
{{- $full := printf "%s-%s" .Release.Name $name -}}
{{- if .Values.fullnameOverride -}}
{{- $full = .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- $full = .Release.Name -}}
{{- end -}}
{{- $full | replace "." "-" | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of objects without a namespace: two releases of one name may live in two namespaces. */}}
{{- define "capstan.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "capstan.fullname" .) -}}
{{- end -}}

{{- define "capstan.selectorLabels" -}}
app.kubernetes.io/name: {{ include "capstan.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "capstan.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "capstan.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "capstan.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "capstan.fullname" .) -}}
{{- else -}}
{{- required "serviceAccount.name: required with serviceAccount.create: false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "capstan.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The subject of all bindings. */}}
{{- define "capstan.subjects" -}}
subjects:
- kind: ServiceAccount
  name: {{ include "capstan.serviceAccountName" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
{{- end -}}

{{/*
GOMEMLIMIT, in bytes: nine tenths of the memory limit, less the 800 MiB that each render of a pull request
may need beside the agent, but of half of the limit at least. Kubernetes kills all of a container that
exceeds its limit, so the two have to fit. Empty for a limit that is none or not understood.
*/}}
{{- define "capstan.goMemLimit" -}}
{{- $limit := dig "limits" "memory" "" .Values.resources -}}
{{- $text := kindIs "float64" $limit | ternary (int64 $limit | toString) (toString $limit) -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" $text -}}
{{- $unit := trimPrefix $number $text -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- if and $number (hasKey $units $unit) -}}
{{- $bytes := mulf (float64 $number) (get $units $unit) | int64 -}}
{{- $workers := .Values.agent.pullRequestWorkers | default 1 -}}
{{- $own := max (sub $bytes (mul $workers 838860800)) (div $bytes 2) -}}
{{- div (mul $own 9) 10 -}}
{{- end -}}
{{- end -}}

{{/* The host of a URL, without its port. */}}
{{- define "capstan.host" -}}
{{- regexReplaceAll ":[0-9]*$" (urlParse .).host "" -}}
{{- end -}}
