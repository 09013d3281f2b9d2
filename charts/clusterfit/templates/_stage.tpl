{{/*
What one stage asks for, as JSON: its override of platform, else platform's own, and what follows.
Usage: include "clusterfit.stage" (dict "root" $ "stage" "extract") | fromJson
The cluster stage keeps to one node, as a Job, unless its own settings ask for more: then a PyTorchJob.
The same rules are in clusterfit.config.platform; tests hold the two together.
*/}}
{{- define "clusterfit.stage" -}}
{{- $platform := .root.Values.platform -}}
{{- $own := index $platform.stages .stage | default dict -}}
{{- $settings := dict -}}
{{- range $key := list "gpus" "gpusPerNode" "gpuResource" "nodesWithoutGpus" "processesPerNode"
      "cpusPerNode" "memoryGibPerNode" "shmGibPerNode" "extraResources" "nodeSelector" "tolerations"
      "affinity" "deadlineSeconds" "startDeadlineSeconds" -}}
{{- $_ := set $settings $key (ternary (index $own $key) (index $platform $key) (hasKey $own $key)) -}}
{{- end -}}
{{- if eq .stage "cluster" -}}
{{- if not (hasKey $own "gpus") }}{{ $_ := set $settings "gpus" (min (int64 $settings.gpus) (int64 $settings.gpusPerNode)) }}{{ end -}}
{{- if not (hasKey $own "nodesWithoutGpus") }}{{ $_ := set $settings "nodesWithoutGpus" 1 }}{{ end -}}
{{- end -}}
{{- include "clusterfit.checkSettings" (dict "stage" .stage "settings" $settings) -}}
{{- $gpus := int64 $settings.gpus -}}
{{- $gpusPerPod := min $gpus (int64 $settings.gpusPerNode) -}}
{{- $nodes := int64 $settings.nodesWithoutGpus -}}
{{- if gt $gpus 0 }}{{ $nodes = div $gpus $gpusPerPod }}{{ end -}}
{{- /* A pod with a part of a node's GPUs gets that part of the rest. */ -}}
{{- $part := ternary (dict "of" $settings.gpusPerNode "is" $gpusPerPod) (dict "of" 1 "is" 1) (gt $gpus 0) -}}
{{- $_ := set $settings "cpus" (divf (mulf $settings.cpusPerNode $part.is) $part.of) -}}
{{- $_ := set $settings "memoryGib" (divf (mulf $settings.memoryGibPerNode $part.is) $part.of) -}}
{{- $_ := set $settings "shmGib" (divf (mulf $settings.shmGibPerNode $part.is) $part.of) -}}
{{- $processes := int64 $settings.processesPerNode | default (max 1 $gpusPerPod) -}}
{{- $kind := "PyTorchJob" -}}
{{- if and (eq .stage "cluster") (eq (int $nodes) 1) }}{{ $kind = "Job" }}{{ end -}}
{{- $name := include "clusterfit.jobName" . -}}
{{- $pods := list -}}
{{- if eq $kind "PyTorchJob" -}}
{{- range $index := until (int $nodes) }}{{ $pods = append $pods (printf "%s-worker-%d" $name $index) }}{{ end -}}
{{- end -}}
{{- $first := eq .stage (first .root.Values.stages) -}}
{{- dict "stage" .stage "kind" $kind "name" $name "nodes" $nodes "processesPerNode" $processes
      "gpusPerPod" $gpusPerPod "pods" $pods "first" $first "settings" $settings | toJson -}}
{{- end -}}

{{/* Requests and limits of a worker pod, as JSON. CPU has no limit: throttled decoding starves GPUs. */}}
{{- define "clusterfit.resources" -}}
{{- $settings := .settings -}}
{{- $limits := dict "memory" (include "clusterfit.gibibytes" $settings.memoryGib) -}}
{{- if gt (int64 .gpusPerPod) 0 }}{{ $_ := set $limits $settings.gpuResource (int64 .gpusPerPod | toString) }}{{ end -}}
{{- range $name, $amount := $settings.extraResources }}{{ $_ := set $limits $name $amount }}{{ end -}}
{{- $requests := merge (dict "cpu" (include "clusterfit.cpus" $settings.cpus)) $limits -}}
{{- dict "requests" $requests "limits" $limits | toJson -}}
{{- end -}}

{{/* A number of gibibytes or cores as Kubernetes writes it: 64 -> 64Gi, 0.5 -> 512Mi; 16 -> 16, 0.25 -> 250m. */}}
{{- define "clusterfit.gibibytes" -}}
{{- $mebibytes := mulf . 1024 | ceil | int64 -}}
{{- if mod $mebibytes 1024 }}{{ $mebibytes }}Mi{{ else }}{{ div $mebibytes 1024 }}Gi{{ end -}}
{{- end -}}

{{- define "clusterfit.cpus" -}}
{{- $millicores := mulf . 1000 | ceil | int64 -}}
{{- if mod $millicores 1000 }}{{ $millicores }}m{{ else }}{{ div $millicores 1000 }}{{ end -}}
{{- end -}}
