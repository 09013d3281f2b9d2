{{/*
The one pod of clusterfit: stages, supervisor, test and file access differ only in what is passed here.
It passes `restricted` Pod Security and needs no writable image.

Usage: include "clusterfit.pod" (dict
  "root" $            the chart's root
  "container" "..."   name of the container; the operator wants `pytorch`
  "command" (list)    exec form
  "env" (list)        Kubernetes' own env entries, before the common ones
  "resources" (dict)  Kubernetes' own resources
  "settings" (dict)   of a stage: node selector, tolerations, affinity, shm; or an empty dict
  "volumes" "all"     all worker volumes; "claims": without those of extraVolumes, which may be bound
                      to a worker's node; "config": only the ConfigMap
  "account" ""        service account whose token is mounted; empty: no token
  "grace" 120)        seconds between SIGTERM and SIGKILL
*/}}
{{- define "clusterfit.pod" -}}
{{- $platform := .root.Values.platform -}}
{{- $claims := ne .volumes "config" -}}
{{- $extraVolumes := ternary $platform.extraVolumes list (eq .volumes "all") -}}
{{- $dataClaim := $platform.data.claim | default $platform.storage.claim -}}
automountServiceAccountToken: {{ ne .account "" }}
{{- with .account }}
serviceAccountName: {{ toJson . }}
{{- end }}
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .grace }}
{{- with $platform.priorityClass }}
priorityClassName: {{ toJson . }}
{{- end }}
{{- with $platform.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ toJson . }}
{{- end }}
{{- end }}
{{- with .settings.nodeSelector }}
nodeSelector: {{ include "clusterfit.json" . }}
{{- end }}
{{- with .settings.tolerations }}
tolerations: {{ include "clusterfit.json" . }}
{{- end }}
{{- with .settings.affinity }}
affinity: {{ include "clusterfit.json" . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int64 $platform.podUser.user }}
  runAsGroup: {{ int64 $platform.podUser.group }}
{{- if $platform.podUser.fsGroup }}
  fsGroup: {{ int64 $platform.podUser.fsGroup }}
  fsGroupChangePolicy: OnRootMismatch
{{- end }}
{{- with $platform.podUser.supplementalGroups }}
  supplementalGroups: {{ toJson . }}
{{- end }}
  seccompProfile:
    type: RuntimeDefault
containers:
  - name: {{ .container }}
    image: {{ include "clusterfit.image" .root | toJson }}
    imagePullPolicy: {{ $platform.image.pullPolicy }}
    command: {{ include "clusterfit.json" .command }}
    env:
{{- range .env }}
      - {{ include "clusterfit.json" . }}
{{- end }}
      - {name: HOME, value: /cache}
      - {name: TMPDIR, value: /tmp}
      - {name: TORCHINDUCTOR_CACHE_DIR, value: /cache/torchinductor}
      - {name: TRITON_CACHE_DIR, value: /cache/triton}
    resources: {{ toJson .resources }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: [ALL]
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: cache, mountPath: /cache}
      - {name: config, mountPath: /etc/clusterfit, readOnly: true}
{{- if $claims }}
      - {name: shm, mountPath: /dev/shm}
      - name: {{ ternary "storage" "data" (eq $dataClaim $platform.storage.claim) }}
        mountPath: /data
        readOnly: true
{{- with include "clusterfit.dataFolder" .root }}
        subPath: {{ include "clusterfit.json" . }}
{{- end }}
      - name: storage
        mountPath: /storage
{{- with $platform.storage.subPath }}
        subPath: {{ include "clusterfit.json" . }}
{{- end }}
{{- range $extraVolumes }}
      - {{ dict "name" .name "mountPath" .mountPath "readOnly" (ternary .readOnly true (hasKey . "readOnly")) | include "clusterfit.json" }}
{{- end }}
{{- end }}
volumes:
  - {name: tmp, emptyDir: {}}
  - {name: cache, emptyDir: {}}
  - name: config
    configMap:
      name: {{ include "clusterfit.configMapName" .root | toJson }}
{{- if $claims }}
  - name: shm
    emptyDir:
      medium: Memory
      sizeLimit: {{ include "clusterfit.gibibytes" .settings.shmGib }}
{{- if ne $dataClaim $platform.storage.claim }}
  - name: data
    persistentVolumeClaim:
      claimName: {{ toJson $dataClaim }}
      readOnly: true
{{- end }}
  - name: storage
    persistentVolumeClaim:
      claimName: {{ toJson $platform.storage.claim }}
{{- range $extraVolumes }}
  - {{ merge (dict "name" .name) .source | include "clusterfit.json" }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
Which nodes the release's other pods ask for, as JSON: those that the image runs on, of any GPU or none.
Usage: include "clusterfit.imageNodes" $ | fromJson
*/}}
{{- define "clusterfit.imageNodes" -}}
{{ pick .Values.platform.nodeSelector "kubernetes.io/arch" "kubernetes.io/os" | toJson }}
{{- end -}}

{{/*
Labels, annotations and spec of a stage's pod.
Usage: include "clusterfit.stagePod" (dict "root" $ "stage" <the JSON of clusterfit.stage>)
*/}}
{{- define "clusterfit.stagePod" -}}
{{- $platform := .root.Values.platform -}}
{{- $stage := .stage -}}
{{- $isJob := eq $stage.kind "Job" -}}
{{- $annotations := deepCopy $platform.annotations -}}
{{- $_ := set $annotations "sidecar.istio.io/inject" "false" -}}
{{- with $platform.queue.requiredTopology }}{{ $_ := set $annotations "kueue.x-k8s.io/podset-required-topology" . }}{{ end -}}
{{- with $platform.queue.preferredTopology }}{{ $_ := set $annotations "kueue.x-k8s.io/podset-preferred-topology" . }}{{ end -}}
{{- $labels := include "clusterfit.labels" (dict "root" .root "role" "worker" "stage" $stage.stage) | fromJson -}}
{{- $_ := set $labels "sidecar.istio.io/inject" "false" -}}
{{- /* PET_RDZV_ID: a worker takes a stage over at once from one of the same submission, for that is the pod
before it; the same run of another namespace on the same storage is another. */ -}}
{{- $env := list
      (dict "name" "PET_MASTER_ADDR" "value" (ternary "localhost" (printf "%s-worker-0" $stage.name) $isJob))
      (dict "name" "PET_MASTER_PORT" "value" "23456")
      (dict "name" "PET_RDZV_ID" "value" (printf "%s/%s-%s" .root.Release.Namespace $stage.name (include "clusterfit.content" .root | trunc 12))) -}}
{{- if $isJob -}}
{{- $env = concat $env (list
      (dict "name" "PET_NNODES" "value" "1")
      (dict "name" "PET_NPROC_PER_NODE" "value" (int64 $stage.processesPerNode | toString))
      (dict "name" "PET_NODE_RANK" "value" "0")) -}}
{{- else -}}
{{- $index := dict "fieldPath" "metadata.labels['training.kubeflow.org/replica-index']" -}}
{{- $env = append $env (dict "name" "PET_NODE_RANK" "valueFrom" (dict "fieldRef" $index)) -}}
{{- end -}}
{{- range $name, $value := $platform.nccl }}{{ $env = append $env (dict "name" $name "value" $value) }}{{ end -}}
{{- range $platform.extraEnv -}}
{{- $env = append $env (ternary (dict "name" .name "valueFrom" .valueFrom) (dict "name" .name "value" (.value | default "")) (not (empty .valueFrom))) -}}
{{- end -}}
{{- $command := list "python" "-P" "-m" "clusterfit.worker" $stage.stage "--config" "/etc/clusterfit/config.json"
      "--data-root" "/data" "--storage-root" "/storage" -}}
{{- with $platform.overwriteToken }}{{ $command = concat $command (list "--overwrite" .) }}{{ end -}}
metadata:
  labels: {{ include "clusterfit.json" $labels }}
  annotations: {{ include "clusterfit.json" $annotations }}
spec:
{{- if $isJob }}
  restartPolicy: Never
{{- end }}
  {{- include "clusterfit.pod" (dict "root" .root "container" "pytorch" "command" $command "env" $env
        "resources" (include "clusterfit.resources" $stage | fromJson) "settings" $stage.settings
        "volumes" "all" "account" "" "grace" 120) | nindent 2 }}
{{- end -}}
