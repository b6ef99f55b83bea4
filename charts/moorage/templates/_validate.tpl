{{/*
Checks across values. Every problem is one line: the value, the reason and the remedy. All are reported at once.
values.schema.json checks each value by itself.
*/}}
{{- define "moorage.validate" -}}
{{- $found := list -}}
{{- range list "unavailable" "proxy" "collection" "image" "names" "pods" "secrets" "storage" "config" "network" "operations" -}}
{{- range include (printf "moorage.problems.%s" .) $ | splitList "\n" -}}
{{- with trim . }}{{ $found = append $found . }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if $found -}}
{{- fail (printf "\n\n* %s\n" (join "\n* " $found)) -}}
{{- end -}}
{{- end -}}

{{- define "moorage.problems.unavailable" -}}
{{- if has .Values.storage (list "swift" "oss") }}
storage: the driver {{ .Values.storage }} is not available; reach Swift by its S3 interface (s3api) and OSS by its S3 endpoint, with storage: s3.
{{- end }}
{{- if dig "notifications" "endpoints" "" (include "moorage.given" . | fromYaml) }}
configData.notifications.endpoints: notifications are not available in this version of Moorage; remove them.
{{- end }}
{{- end -}}

{{- define "moorage.problems.proxy" -}}
{{- if .Values.proxy.enabled }}
{{- if not .Values.proxy.remoteurl }}
proxy.remoteurl: is empty; set the root URL of the upstream registry, such as https://registry-1.docker.io.
{{- end }}
{{- if and .Values.proxy.secretRef (or .Values.proxy.username .Values.proxy.password) }}
proxy.secretRef: names a Secret with the account, and username or password is set as well; remove those.
{{- else if ne (empty .Values.proxy.username) (empty .Values.proxy.password) }}
proxy: has one of username and password; set both, or neither for an anonymous cache.
{{- end }}
{{- else if or .Values.proxy.remoteurl .Values.proxy.secretRef .Values.proxy.username .Values.proxy.password }}
proxy.enabled: is false, and proxy has other values; set it to true, or remove them.
{{- end }}
{{- end -}}

{{- define "moorage.problems.collection" -}}
{{- $job := list }}
{{- range list "schedule" "podAnnotations" "podLabels" "resources" }}
{{- if get $.Values.garbageCollect . }}{{ $job = append $job (printf "garbageCollect.%s" .) }}{{ end }}
{{- end }}
{{- if and .Values.garbageCollect.enabled $job }}
{{ join ", " $job }}: describe the CronJob of twuni's chart, which this one does not need, because the pods collect while they serve; remove this, and set garbageCollect.interval for another time between two runs than 24h.
{{- end }}
{{- end -}}

{{- define "moorage.problems.image" -}}
{{- if has .Values.image.repository (list "registry" "library/registry" "docker.io/registry" "docker.io/library/registry" "distribution/distribution" "docker.io/distribution/distribution") }}
image.repository: {{ .Values.image.repository }} is CNCF Distribution, which has neither /livez nor /readyz; name the repository of your Moorage image.
{{- end }}
{{- end -}}

{{- define "moorage.problems.names" -}}
{{- if not (has .Values.service.name (list "" "registry")) }}
service.name: has no effect, as in twuni's chart; remove it and set fullnameOverride to name the Service.
{{- end }}
{{- range list "app" "release" }}
{{- if hasKey ($.Values.podLabels | default dict) . }}
podLabels.{{ . }}: is part of the selector; use another label, or nameOverride.
{{- end }}
{{- end }}
{{- if and .Values.serviceAccount.annotations (not .Values.serviceAccount.create) }}
serviceAccount.annotations: have no effect on an account that the chart does not create; set serviceAccount.create: true, or annotate the account yourself and remove them.
{{- end }}
{{- end -}}

{{- define "moorage.problems.pods" -}}
{{- $strategy := get (.Values.updateStrategy | default dict) "type" | default "RollingUpdate" }}
{{- $surge := dig "rollingUpdate" "maxSurge" 1 (.Values.updateStrategy | default dict) | toString }}
{{- $shared := include "moorage.sharedStorage" . }}
{{- if and (include "moorage.severalPods" .) (not $shared) }}
{{- if .Values.persistence.enabled }}
{{ ternary "autoscaling.enabled" "replicaCount" .Values.autoscaling.enabled }}: several pods cannot share a {{ .Values.persistence.accessMode }} volume; use one pod, persistence.accessMode: ReadWriteMany with a class that offers it, or storage: s3, gcs or azure.
{{- else }}
{{ ternary "autoscaling.enabled" "replicaCount" .Values.autoscaling.enabled }}: several pods without a common volume would each have images of their own; use one pod, persistence.enabled: true with accessMode: ReadWriteMany, or storage: s3, gcs or azure.
{{- end }}
{{- end }}
{{- if and .Values.updateStrategy (eq $strategy "RollingUpdate") (not $shared) (not (has $surge (list "0" "0%"))) }}
updateStrategy: with RollingUpdate the new pod waits for the volume that the old pod holds; remove updateStrategy (Recreate is derived), or set rollingUpdate: {maxSurge: 0, maxUnavailable: 1}.
{{- end }}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) }}
autoscaling.minReplicas: {{ .Values.autoscaling.minReplicas }} is more than maxReplicas, {{ .Values.autoscaling.maxReplicas }}.
{{- end }}
{{- if .Values.autoscaling.enabled }}
{{- if not (or .Values.autoscaling.targetCPUUtilizationPercentage .Values.autoscaling.targetMemoryUtilizationPercentage) }}
autoscaling: names no target; set targetCPUUtilizationPercentage.
{{- end }}
{{- if and .Values.autoscaling.targetCPUUtilizationPercentage (not (dig "requests" "cpu" "" (.Values.resources | default dict))) }}
autoscaling.targetCPUUtilizationPercentage: is a share of resources.requests.cpu, which is missing; set it.
{{- end }}
{{- if and .Values.autoscaling.targetMemoryUtilizationPercentage (not (dig "requests" "memory" "" (.Values.resources | default dict))) }}
autoscaling.targetMemoryUtilizationPercentage: is a share of resources.requests.memory, which is missing; set it.
{{- end }}
{{- end }}
{{- if and (hasKey (.Values.podDisruptionBudget | default dict) "minAvailable") (hasKey (.Values.podDisruptionBudget | default dict) "maxUnavailable") }}
podDisruptionBudget: has minAvailable and maxUnavailable; Kubernetes accepts one of them.
{{- end }}
{{- end -}}

{{- define "moorage.problems.secrets" -}}
{{- $given := regexMatch " REGISTRY_HTTP_SECRET(_FILE)? " (include "moorage.givenVariables" .) }}
{{- $secret := or $given (include "moorage.httpSecret" .) }}
{{- if and .Values.http.existingSecret .Values.secrets.haSharedSecret }}
secrets.haSharedSecret: is given beside http.existingSecret; remove one of them.
{{- end }}
{{- if not $secret }}
{{- $remedy := "create one with `kubectl create secret generic registry-http --from-literal=haSharedSecret=$(openssl rand -hex 32)` and set http.existingSecret: registry-http" }}
{{- if include "moorage.severalPods" . }}
http.existingSecret: several pods must share http.secret, and the chart invents none, because each rendering would have another; {{ $remedy }}.
{{- else if .Values.auth.local.existingSecret }}
http.existingSecret: auth.local derives the keys of its tokens from http.secret, so a random one would end every login at each restart; {{ $remedy }}.
{{- else if include "moorage.strategy" . | contains "RollingUpdate" }}
http.existingSecret: during a rolling update two pods serve, which must share http.secret, and the chart invents none, because each rendering would have another; {{ $remedy }}.
{{- end }}
{{- end }}
{{- if and .Values.auth.htpasswd.existingSecret .Values.secrets.htpasswd }}
secrets.htpasswd: is given beside auth.htpasswd.existingSecret; remove one of them.
{{- end }}
{{- $ways := list }}
{{- if .Values.auth.local.existingSecret }}{{ $ways = append $ways "auth.local" }}{{ end }}
{{- if include "moorage.htpasswdSecret" . }}{{ $ways = append $ways (ternary "auth.htpasswd" "secrets.htpasswd" (not (empty .Values.auth.htpasswd.existingSecret))) }}{{ end }}
{{- $configured := .Values.configData.auth | default dict }}
{{- if kindIs "string" $configured }}{{ $configured = dict $configured nil }}{{ end }}
{{- range $way, $_ := $configured }}
{{- if or (not (has $way (list "htpasswd" "local"))) (not (has (printf "auth.%s" $way) $ways)) }}{{ $ways = append $ways (printf "configData.auth.%s" $way) }}{{ end }}
{{- end }}
{{- if gt (len $ways) 1 }}
auth: {{ join " and " $ways }} are two ways of authentication; keep one.
{{- end }}
{{- if and .Values.tls.existingSecret .Values.tlsSecretName (ne .Values.tls.existingSecret .Values.tlsSecretName) }}
tlsSecretName: is twuni's name of tls.existingSecret, and both are given; remove one of them.
{{- end }}
{{- if and .Values.tls.clientCAsKey (not (include "moorage.tlsSecret" .)) }}
tls.clientCAsKey: needs tls.existingSecret, which holds that key.
{{- end }}
{{- if and .Values.auth.local.usersKey (not .Values.auth.local.existingSecret) }}
auth.local.usersKey: needs auth.local.existingSecret, which holds that key.
{{- end }}
{{- if and (include "moorage.clientCertificates" .) (not .Values.metrics.enabled) }}
tls.clientCAsKey: the kubelet has no client certificate for its probes; set metrics.enabled: true, so that they ask the debug listener.
{{- end }}
{{- if and .Values.redis.tls.certificateKey (not .Values.redis.tls.privateKeyKey) }}
redis.tls.certificateKey: needs redis.tls.privateKeyKey, the key of its private key.
{{- end }}
{{- if and (not .Values.redis.addrs) (or .Values.redis.existingSecret .Values.redis.tls.enabled .Values.redis.mastername) }}
redis: has settings, but redis.addrs is empty; name the server, or remove them.
{{- end }}
{{- end -}}

{{- define "moorage.problems.storage" -}}
{{- $storage := .Values.storage }}
{{- $given := include "moorage.givenVariables" . }}
{{- range $driver, $_ := dig "storage" dict (include "moorage.given" . | fromYaml) }}
{{- if and (not (has $driver (list "delete" "redirect" "cache" "maintenance" "tag"))) (ne $driver $storage) }}
configData.storage.{{ $driver }}: is not the driver that `storage` names, {{ $storage }}; set storage: {{ $driver }} or remove it.
{{- end }}
{{- end }}
{{- range concat (.Values.extraEnv | default list) (.Values.extraEnvVars | default list) }}
{{- $driver := regexFind "^REGISTRY_STORAGE_(FILESYSTEM|INMEMORY|S3|GCS|AZURE|SWIFT|OSS)(_|$)" .name | trimPrefix "REGISTRY_STORAGE_" | trimSuffix "_" | lower }}
{{- if and $driver (ne $driver $storage) }}
extraEnv: {{ .name }} chooses the driver {{ $driver }}, and `storage` names {{ $storage }}; set storage: {{ $driver }} or remove the variable.
{{- end }}
{{- end }}
{{- if eq $storage "filesystem" }}
{{- $root := dig "storage" "filesystem" "rootdirectory" "" (include "moorage.given" . | fromYaml) }}
{{- if and $root (ne (trimSuffix "/" $root) "/var/lib/registry") }}
configData.storage.filesystem.rootdirectory: the volume is mounted at /var/lib/registry; remove the value.
{{- end }}
{{- else if eq $storage "s3" }}
{{- $inline := dig "storage" "s3" dict (include "moorage.given" . | fromYaml) }}
{{- if not (or .Values.s3.bucket (get $inline "bucket") (regexMatch " REGISTRY_STORAGE_S3_BUCKET(_FILE)? " $given)) }}
s3.bucket: is required with storage: s3; name a bucket that exists.
{{- end }}
{{- if not (or .Values.s3.region .Values.s3.regionEndpoint (get $inline "region") (get $inline "regionendpoint") (contains " REGISTRY_STORAGE_S3_REGION" $given)) }}
s3.region: is required with storage: s3, unless s3.regionEndpoint names the service.
{{- end }}
{{- $s3 := .Values.secrets.s3 | default dict }}
{{- if ne (empty $s3.accessKey) (empty $s3.secretKey) }}
secrets.s3: has one of accessKey and secretKey; give both, or s3.existingSecret.
{{- end }}
{{- if gt (len (compact (list .Values.s3.existingSecret $s3.secretRef $s3.accessKey))) 1 }}
secrets.s3: keys are given twice (s3.existingSecret, secrets.s3.secretRef, secrets.s3.accessKey); keep one.
{{- end }}
{{- else if eq $storage "gcs" }}
{{- if not (or .Values.gcs.bucket (dig "storage" "gcs" "bucket" "" (include "moorage.given" . | fromYaml)) (regexMatch " REGISTRY_STORAGE_GCS_BUCKET(_FILE)? " $given)) }}
gcs.bucket: is required with storage: gcs; name a bucket that exists.
{{- end }}
{{- else if eq $storage "azure" }}
{{- $azure := .Values.secrets.azure | default dict }}
{{- $inline := dig "storage" "azure" dict (include "moorage.given" . | fromYaml) }}
{{- $existing := .Values.azure.existingSecret }}
{{- $account := or .Values.azure.accountname (get $inline "accountname") (regexMatch " REGISTRY_STORAGE_AZURE_ACCOUNTNAME(_FILE)? " $given) (and $existing .Values.azure.accountNameKey) (and (not $existing) $azure.accountKey $azure.accountName) }}
{{- $container := or .Values.azure.container (get $inline "container") (regexMatch " REGISTRY_STORAGE_AZURE_CONTAINER(_FILE)? " $given) (and $existing .Values.azure.containerKey) (and (not $existing) $azure.accountKey $azure.container) }}
{{- if not $account }}
azure.accountname: is required with storage: azure (or azure.accountNameKey, its key in azure.existingSecret).
{{- end }}
{{- if not $container }}
azure.container: is required with storage: azure (or azure.containerKey, its key in azure.existingSecret).
{{- end }}
{{- if and .Values.azure.existingSecret $azure.accountKey }}
secrets.azure: is given beside azure.existingSecret; remove one of them.
{{- end }}
{{- end }}
{{- range $kind := list "s3" "gcs" "azure" }}
{{- if and (ne $kind $storage) (get $.Values $kind) }}
{{ $kind }}: has settings, and `storage` names {{ $storage }}; set storage: {{ $kind }} or remove them.
{{- end }}
{{- end }}
{{- end -}}

{{- define "moorage.problems.config" -}}
{{- $data := include "moorage.given" . | fromYaml }}
{{- range $path, $remedy := dict
      "http.secret" "http.existingSecret"
      "redis.password" "redis.existingSecret"
      "redis.sentinelpassword" "redis.existingSecret and redis.sentinelPasswordKey"
      "storage.s3.accesskey" "s3.existingSecret"
      "storage.s3.secretkey" "s3.existingSecret"
      "storage.s3.sessiontoken" "s3.existingSecret and s3.sessionTokenKey"
      "storage.azure.accountkey" "azure.existingSecret"
      "storage.azure.credentials.secret" "an extraEnv variable REGISTRY_STORAGE_AZURE_CREDENTIALS_SECRET from a Secret"
      "storage.gcs.credentials" "gcs.existingSecret"
      "proxy.password" "proxy.secretRef" }}
{{- $value := $data }}
{{- range splitList "." $path }}
{{- if kindIs "map" $value }}{{ $value = get $value . }}{{ else }}{{ $value = "" }}{{ end }}
{{- end }}
{{- if $value }}
configData.{{ $path }}: is a secret, and configData becomes a ConfigMap, which is none; use {{ $remedy }}.
{{- end }}
{{- end }}
{{- range $index, $hook := dig "log" "hooks" list $data }}
{{- if dig "options" "smtp" "password" "" $hook }}
configData.log.hooks[{{ $index }}].options.smtp.password: is a secret, and configData becomes a ConfigMap, which is none; use an extraEnv variable REGISTRY_LOG_HOOKS_{{ $index }}_OPTIONS_SMTP_PASSWORD from a Secret.
{{- end }}
{{- end }}
{{- range $index, $check := dig "health" "http" list $data }}
{{- range $name, $_ := dig "headers" dict $check }}
{{- if eq (lower $name) "authorization" }}
configData.health.http[{{ $index }}].headers.{{ $name }}: is a secret, and configData becomes a ConfigMap, which is none; use an extraEnv variable REGISTRY_HEALTH_HTTPCHECKERS_{{ $index }}_HEADERS_AUTHORIZATION from a Secret.
{{- end }}
{{- end }}
{{- end }}
{{- $drain := dig "http" "draintimeout" "0s" $data | toString }}
{{- if not (regexMatch "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$|^0$" $drain) }}
configData.http.draintimeout: {{ $drain }} is not a duration of whole hours, minutes and seconds, such as 90s or 1m30s, which the grace period is derived from.
{{- else if and .Values.terminationGracePeriodSeconds (lt (int .Values.terminationGracePeriodSeconds) (include "moorage.leastGrace" . | int)) }}
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }} ends pods before their pushes; with draintimeout {{ $drain }} and preStopSleepSeconds {{ .Values.preStopSleepSeconds }} it is at least {{ include "moorage.leastGrace" . }}; remove it to have it derived.
{{- end }}
{{- range $variable, $value := dict
      "REGISTRY_HTTP_ADDR" "configData.http.addr, which the port and the probes are derived from"
      "REGISTRY_HTTP_NET" "configData.http.addr: pods listen on TCP"
      "REGISTRY_HTTP_DRAINTIMEOUT" "configData.http.draintimeout, which the grace period is derived from"
      "REGISTRY_HTTP_TLS_CERTIFICATE" "tls.existingSecret, which the scheme of the probes is derived from"
      "REGISTRY_HTTP_TLS_CLIENTCAS" "tls.clientCAsKey, which the port of the probes is derived from"
      "REGISTRY_HTTP_DEBUG_ADDR" "metrics.enabled and configData.http.debug.addr, which the port of the metrics is derived from" }}
{{- if regexMatch (printf " %s(_FILE)? " $variable) (include "moorage.givenVariables" $) }}
extraEnv: {{ $variable }} changes what the chart derives objects from; remove it and use {{ $value }}.
{{- end }}
{{- end }}
{{- end -}}

{{- define "moorage.problems.network" -}}
{{- $addr := dig "http" "addr" "" (include "moorage.given" . | fromYaml) | toString }}
{{- if or (eq (dig "http" "net" "tcp" (include "moorage.given" . | fromYaml)) "unix") (not (regexMatch ":[1-9][0-9]*$" $addr)) }}
configData.http.addr: {{ $addr | quote }} names no TCP port that the Service could lead to; use :5000.
{{- else if regexMatch "^(127\\.|localhost:|\\[::1\\])" $addr }}
configData.http.addr: {{ $addr }} is reached by neither the Service nor the probes; use :5000.
{{- end }}
{{- $debug := dig "http" "debug" "addr" "" (include "moorage.given" . | fromYaml) | toString }}
{{- if and .Values.metrics.enabled $debug (regexMatch "^(127\\.|localhost:|\\[::1\\])" $debug) }}
configData.http.debug.addr: {{ $debug }} is not reached by Prometheus; remove it, or use :5001.
{{- end }}
{{- if and .Values.metrics.enabled (eq (include "moorage.metricsPort" .) (include "moorage.port" .)) }}
configData.http.debug.addr: the debug listener cannot have the registry's port, {{ include "moorage.port" . }}.
{{- end }}
{{- if and .Values.metrics.enabled (eq (int .Values.metrics.port) (int .Values.service.port)) }}
metrics.port: the Service cannot have {{ .Values.metrics.port }} twice; service.port is the same.
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
ingress.hosts: is empty; name the host under which clients reach the registry.
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
httpRoute.parentRefs: is empty; name the Gateway that the route belongs to.
{{- end }}
{{- if and .Values.httpRoute.enabled (include "moorage.tls" .) }}
httpRoute: a Gateway speaks plain HTTP to the Service, and TLS ends in the pod; let it end at the Gateway (remove tls.existingSecret), or write route and BackendTLSPolicy in extraObjects.
{{- end }}
{{- with pick .Values.service "loadBalancerIP" "loadBalancerClass" "loadBalancerSourceRanges" }}
{{- if ne $.Values.service.type "LoadBalancer" }}
service.{{ keys . | sortAlpha | first }}: needs service.type: LoadBalancer.
{{- end }}
{{- end }}
{{- if and .Values.service.nodePort (eq .Values.service.type "ClusterIP") }}
service.nodePort: needs service.type: NodePort or LoadBalancer.
{{- end }}
{{- end -}}

{{- define "moorage.problems.operations" -}}
{{- range list "serviceMonitor" "podMonitor" "prometheusRule" "dashboard" }}
{{- if and (get $.Values.metrics .).enabled (not $.Values.metrics.enabled) }}
metrics.{{ . }}.enabled: needs metrics.enabled: true, which opens the listener that serves them.
{{- end }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled }}
metrics.podMonitor.enabled: with metrics.serviceMonitor.enabled every pod would be counted twice; keep one.
{{- end }}
{{- end -}}
