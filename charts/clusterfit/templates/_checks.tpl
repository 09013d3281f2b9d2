{{/*
What the schema cannot express: rules across fields. Each says what was given, what is wanted, how to fix it.
*/}}
{{- define "clusterfit.checkRelease" -}}
{{- if .Release.IsUpgrade -}}
{{- fail (printf "a submitted run is never changed: release %s exists; `helm uninstall %s -n %s` first (data and results stay), then install again" .Release.Name .Release.Name .Release.Namespace) -}}
{{- end -}}
{{- if gt (len .Release.Name) 52 -}}
{{- fail (printf "release name %s: got %d characters, want at most 52, because Kubernetes appends to it" .Release.Name (len .Release.Name)) -}}
{{- end -}}
{{- $known := list "pretext" "extract" "cluster" "train" "evaluate" -}}
{{- $ordered := list -}}
{{- range $stage := $known }}{{ if has $stage $.Values.stages }}{{ $ordered = append $ordered $stage }}{{ end }}{{ end -}}
{{- if ne (toJson $ordered) (toJson .Values.stages) -}}
{{- fail (printf "stages: got %s, want each once and in this order: %s" (join ", " .Values.stages) (join ", " $known)) -}}
{{- end -}}
{{- include "clusterfit.checkQueue" .Values.platform.queue -}}
{{- include "clusterfit.checkExtras" .Values.platform -}}
{{- include "clusterfit.checkPaths" .Values.platform -}}
{{- if include "clusterfit.dataIsOnStorage" . -}}
{{- $run := printf "%s/%s/" .Values.platform.storage.subPath .Values.name | trimPrefix "/" -}}
{{- $data := printf "%s/" (include "clusterfit.dataFolder" .) -}}
{{- if or (hasPrefix $data $run) (hasPrefix $run $data) -}}
{{- fail (printf "name: the run's directory would be %s on the storage claim, where the data is (%s); take another name or platform.data.subPath" $run $data) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "clusterfit.checkQueue" -}}
{{- if and (eq .gang "kueue") (not .name) -}}
{{- fail "platform.queue: gang: kueue needs name, a LocalQueue of the namespace" -}}
{{- end -}}
{{- if and (has .gang (list "none" "coscheduling")) .name -}}
{{- fail (printf "platform.queue: name has no effect with gang: %s; set gang: kueue or gang: volcano" .gang) -}}
{{- end -}}
{{- if and (ne .gang "kueue") (or .priorityClass .requiredTopology .preferredTopology) -}}
{{- fail "platform.queue: priorityClass, requiredTopology and preferredTopology need gang: kueue" -}}
{{- end -}}
{{- if and .requiredTopology .preferredTopology -}}
{{- fail "platform.queue: requiredTopology and preferredTopology exclude each other" -}}
{{- end -}}
{{- end -}}

{{- define "clusterfit.checkSettings" -}}
{{- $where := printf "platform (stage %s)" .stage -}}
{{- with .settings -}}
{{- $gpus := int64 .gpus -}}
{{- $perNode := int64 .gpusPerNode -}}
{{- if and (gt $gpus $perNode) (mod $gpus $perNode) -}}
{{- $below := sub $gpus (mod $gpus $perNode) -}}
{{- fail (printf "%s: gpus: got %d on nodes of %d, want a multiple; the nearest are %d and %d" $where $gpus $perNode $below (add $below $perNode)) -}}
{{- end -}}
{{- if gt (float64 .shmGibPerNode) (float64 .memoryGibPerNode) -}}
{{- fail (printf "%s: shmGibPerNode: got %v, want at most memoryGibPerNode (%v), which it is part of" $where .shmGibPerNode .memoryGibPerNode) -}}
{{- end -}}
{{- if hasKey .extraResources .gpuResource -}}
{{- fail (printf "%s: extraResources: %s is what gpus asks for; leave it out" $where .gpuResource) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "clusterfit.checkExtras" -}}
{{- range $field, $entries := dict "labels" .labels "annotations" .annotations -}}
{{- range $key, $_ := $entries -}}
{{- range $prefix := list "clusterfit.dev/" "app.kubernetes.io/" "helm.sh/" "training.kubeflow.org/" "kueue.x-k8s.io/" -}}
{{- if hasPrefix $prefix $key }}{{ fail (printf "platform.%s: %s is set by clusterfit itself; leave it out" $field $key) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $names := keys .nccl -}}
{{- range $variable := .extraEnv -}}
{{- if or (regexMatch "^(PET_|TORCHELASTIC_).*$" $variable.name) (has $variable.name (list "RANK" "LOCAL_RANK"
      "WORLD_SIZE" "LOCAL_WORLD_SIZE" "MASTER_ADDR" "MASTER_PORT" "GROUP_RANK" "ROLE_RANK" "PYTHONUNBUFFERED" "HOME" "TMPDIR"
      "TORCHINDUCTOR_CACHE_DIR" "TRITON_CACHE_DIR")) -}}
{{- fail (printf "platform.extraEnv: %s is set by clusterfit itself; leave it out" $variable.name) -}}
{{- end -}}
{{- if and $variable.value $variable.valueFrom -}}
{{- fail (printf "platform.extraEnv: %s has both value and valueFrom; keep one" $variable.name) -}}
{{- end -}}
{{- if has $variable.name $names }}{{ fail (printf "platform.extraEnv: %s is given twice; keep one" $variable.name) }}{{ end -}}
{{- $names = append $names $variable.name -}}
{{- end -}}
{{- $taken := list -}}
{{- range $volume := .extraVolumes -}}
{{- if has $volume.name (list "tmp" "cache" "shm" "config" "data" "storage") -}}
{{- fail (printf "platform.extraVolumes: %s is the name of a volume of clusterfit's; take another" $volume.name) -}}
{{- end -}}
{{- if regexMatch "^/(data|storage|tmp|cache|etc/clusterfit|dev/shm)(/|$)" $volume.mountPath -}}
{{- fail (printf "platform.extraVolumes: %s is clusterfit's own; mount elsewhere" $volume.mountPath) -}}
{{- end -}}
{{- range $name := list $volume.name $volume.mountPath -}}
{{- if has $name $taken }}{{ fail (printf "platform.extraVolumes: %s is given twice; keep one" $name) }}{{ end -}}
{{- $taken = append $taken $name -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "clusterfit.checkPaths" -}}
{{- range $field, $volume := dict "storage" .storage "data" .data -}}
{{- if has ".." (splitList "/" $volume.subPath) }}{{ fail (printf "platform.%s: subPath must not hold .., got %s" $field $volume.subPath) }}{{ end -}}
{{- end -}}
{{- end -}}
