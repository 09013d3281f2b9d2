{{/*
Any value as JSON that YAML reads back as it was: toJson leaves control characters that YAML folds or refuses.
Usage: include "clusterfit-storage.json" .value
*/}}
{{- define "clusterfit-storage.json" -}}
{{- $text := toJson . -}}
{{- range $code := concat (untilStep 127 160 1) (list 65279 65534 65535) -}}
{{- $text = replace (printf "%c" $code) (printf "\\u%04x" $code) $text -}}
{{- end -}}
{{- $text -}}
{{- end -}}
