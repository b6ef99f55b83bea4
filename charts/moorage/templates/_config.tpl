{{/*
config.yml: configData, below what the values say. Secrets are never part of it: they are variables of the container
(_pod.tpl) or files.
*/}}
{{- define "moorage.config" -}}
{{- $config := include "moorage.given" . | fromYaml -}}
{{- with .Values.configData.auth }}{{ $_ := set $config "auth" . }}{{ end -}}
{{- toYaml (mergeOverwrite $config (include "moorage.derivedConfig" . | fromYaml)) -}}
{{- end -}}

{{/* configData without nulls, which take a default away. (auth: {none: null} is a choice, and kept.) */}}
{{- define "moorage.given" -}}
{{- include "moorage.withoutNulls" .Values.configData -}}
{{- end -}}

{{- define "moorage.withoutNulls" -}}
{{- $result := dict -}}
{{- range $key, $value := . -}}
{{- if kindIs "map" $value -}}
{{- $_ := set $result $key (include "moorage.withoutNulls" $value | fromYaml) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $_ := set $result $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $result -}}
{{- end -}}

{{- define "moorage.derivedConfig" -}}
storage:
  {{- include "moorage.derivedStorage" . | nindent 2 }}
  {{- if .Values.persistence.deleteEnabled }}
  delete:
    enabled: true
  {{- end }}
  {{- if .Values.garbageCollect.enabled }}
  maintenance:
    garbagecollection:
      enabled: true
      {{- if .Values.garbageCollect.deleteUntagged }}
      deleteuntagged: true
      {{- end }}
      {{- range $key := list "interval" "grace" "wait" }}
      {{- with get $.Values.garbageCollect $key }}
      {{ $key }}: {{ quote . }}
      {{- end }}
      {{- end }}
  {{- end }}
  {{- if .Values.redis.addrs }}
  cache:
    blobdescriptor: redis
redis:
  addrs: {{ toJson .Values.redis.addrs }}
  db: {{ int .Values.redis.db }}
  {{- with .Values.redis.mastername }}
  mastername: {{ quote . }}
  {{- end }}
  {{- if .Values.redis.tls.enabled }}
  tls:
    enabled: true
    {{- if .Values.redis.tls.existingSecret }}
    {{- with .Values.redis.tls.caKey }}
    rootcas: [{{ printf "/etc/moorage/redis/%s" . | quote }}]
    {{- end }}
    {{- if .Values.redis.tls.certificateKey }}
    certificate: {{ printf "/etc/moorage/redis/%s" .Values.redis.tls.certificateKey | quote }}
    key: {{ printf "/etc/moorage/redis/%s" .Values.redis.tls.privateKeyKey | quote }}
    {{- end }}
    {{- end }}
  {{- end }}
  {{- end }}
{{- if .Values.proxy.enabled }}
proxy:
  remoteurl: {{ quote .Values.proxy.remoteurl }}
{{- end }}
{{- if .Values.auth.local.existingSecret }}
auth:
  local:
    policy: /auth/{{ .Values.auth.local.policyKey }}
    {{- with .Values.auth.local.usersKey }}
    users: /auth/{{ . }}
    {{- end }}
{{- else if include "moorage.htpasswdSecret" . }}
auth:
  htpasswd:
    realm: {{ quote .Values.auth.htpasswd.realm }}
    path: /auth/htpasswd
{{- end }}
{{- if or (include "moorage.tlsSecret" .) .Values.metrics.enabled }}
http:
  {{- if include "moorage.tlsSecret" . }}
  tls:
    certificate: /etc/ssl/docker/{{ .Values.tls.certificateKey }}
    key: /etc/ssl/docker/{{ .Values.tls.privateKeyKey }}
    {{- with .Values.tls.clientCAsKey }}
    clientcas: [/etc/ssl/docker/{{ . }}]
    {{- end }}
  {{- end }}
  {{- if .Values.metrics.enabled }}
  debug:
    addr: {{ dig "http" "debug" "addr" "" (include "moorage.given" . | fromYaml) | default ":5001" | quote }}
    prometheus:
      enabled: true
  {{- end }}
{{- end }}
{{- end -}}

{{- define "moorage.derivedStorage" -}}
{{- if eq .Values.storage "filesystem" -}}
filesystem:
  rootdirectory: /var/lib/registry
{{- else if eq .Values.storage "s3" -}}
s3:
  {{- $s3 := dict }}
  {{- range $key := list "region" "regionEndpoint" "bucket" "rootdirectory" "encrypt" "secure" "forcepathstyle" "skipverify" }}
  {{- $value := get $.Values.s3 $key }}
  {{- if or (kindIs "bool" $value) (and $value (ne $value "")) }}
  {{- $_ := set $s3 (lower $key) $value }}
  {{- end }}
  {{- end }}
  {{- toYaml $s3 | nindent 2 }}
{{- else if eq .Values.storage "gcs" -}}
gcs:
  {{- $gcs := dict }}
  {{- range $key := list "bucket" "rootdirectory" }}
  {{- with get $.Values.gcs $key }}{{ $_ := set $gcs $key . }}{{ end }}
  {{- end }}
  {{- if .Values.gcs.existingSecret }}
  {{- $_ := set $gcs "keyfile" (printf "/etc/moorage/gcs/%s" (.Values.gcs.keyfileKey | default "key.json")) }}
  {{- end }}
  {{- toYaml $gcs | nindent 2 }}
{{- else if eq .Values.storage "azure" -}}
azure:
  {{- $azure := dict }}
  {{- range $key := list "accountname" "container" "realm" "rootdirectory" }}
  {{- with get $.Values.azure $key }}{{ $_ := set $azure $key . }}{{ end }}
  {{- end }}
  {{- toYaml $azure | nindent 2 }}
{{- end -}}
{{- end -}}
