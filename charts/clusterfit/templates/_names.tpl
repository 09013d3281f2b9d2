{{/*
Names and labels. A run is found by the label clusterfit.dev/run, whatever its release is called.
*/}}

{{/*
Any value as JSON that YAML reads back as it was: toJson leaves control characters that YAML folds or refuses.
Usage: include "clusterfit.json" .value
*/}}
{{- define "clusterfit.json" -}}
{{- $text := toJson . -}}
{{- range $code := concat (untilStep 127 160 1) (list 65279 65534 65535) -}}
{{- $text = replace (printf "%c" $code) (printf "\\u%04x" $code) $text -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{/* Name of a stage's job. Usage: include "clusterfit.jobName" (dict "root" $ "stage" "extract") */}}
{{- define "clusterfit.jobName" -}}
{{ .root.Values.name }}-{{ .stage }}
{{- end -}}

{{- define "clusterfit.supervisorName" -}}
{{ .Release.Name }}-supervisor
{{- end -}}

{{- define "clusterfit.serviceAccount" -}}
{{ .Values.platform.sequencing.serviceAccount | default (include "clusterfit.supervisorName" .) }}
{{- end -}}

{{/* Name of the release's ConfigMap, by which the launcher finds the release and what it is made of. */}}
{{- define "clusterfit.configMapName" -}}
{{ .Release.Name }}-config
{{- end -}}

{{/* What a submission is told apart by: the digest of all its values. */}}
{{- define "clusterfit.content" -}}
{{ omit .Values "global" | toJson | sha256sum }}
{{- end -}}

{{- define "clusterfit.dataIsOnStorage" -}}
{{- $platform := .Values.platform -}}
{{- if has $platform.data.claim (list "" $platform.storage.claim) }}true{{ end -}}
{{- end -}}

{{/* Folder of the data claim that becomes the data root; empty: all of it. */}}
{{- define "clusterfit.dataFolder" -}}
{{- .Values.platform.data.subPath | default (ternary "data" "" (eq (include "clusterfit.dataIsOnStorage" .) "true")) -}}
{{- end -}}

{{- define "clusterfit.image" -}}
{{- $image := .Values.platform.image -}}
{{- if and $image.digest (not $image.tag) -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}{{ with $image.digest }}@{{ . }}{{ end }}
{{- end -}}
{{- end -}}

{{/*
Labels as JSON. Usage: include "clusterfit.labels" (dict "root" $ "role" "worker" "stage" "extract")
`role` and `stage` are left out for objects that belong to the whole release.
*/}}
{{- define "clusterfit.labels" -}}
{{- $labels := dict
      "app.kubernetes.io/name" "clusterfit"
      "app.kubernetes.io/instance" .root.Release.Name
      "app.kubernetes.io/version" (.root.Chart.AppVersion | toString)
      "app.kubernetes.io/managed-by" .root.Release.Service
      "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_")
      "clusterfit.dev/run" .root.Values.name -}}
{{- with .role }}{{ $_ := set $labels "app.kubernetes.io/component" . }}{{ end -}}
{{- with .stage }}{{ $_ := set $labels "clusterfit.dev/stage" . }}{{ end -}}
{{- range $key, $value := .root.Values.platform.labels }}{{ $_ := set $labels $key $value }}{{ end -}}
{{- include "clusterfit.json" $labels -}}
{{- end -}}
