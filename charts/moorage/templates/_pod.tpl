{{/*
Settings whose values are keys of Secrets, as a list of variable, secret and key. They are mounted, and named by
REGISTRY_..._FILE: no secret is in the environment, and its text is no YAML. What the values set by a variable of
their own is left out.
*/}}
{{- define "moorage.secretSettings" -}}
{{- $found := list -}}
{{- with include "moorage.httpSecret" . -}}
{{- $key := ternary $.Values.http.existingSecretKey "haSharedSecret" (not (empty $.Values.http.existingSecret)) -}}
{{- $found = append $found (dict "variable" "REGISTRY_HTTP_SECRET" "secret" . "key" $key) -}}
{{- end -}}
{{- if eq .Values.storage "s3" -}}
{{- with include "moorage.s3Secret" . -}}
{{- $found = append $found (dict "variable" "REGISTRY_STORAGE_S3_ACCESSKEY" "secret" . "key" ($.Values.s3.accessKeyKey | default "s3AccessKey")) -}}
{{- $found = append $found (dict "variable" "REGISTRY_STORAGE_S3_SECRETKEY" "secret" . "key" ($.Values.s3.secretKeyKey | default "s3SecretKey")) -}}
{{- $found = append $found (dict "variable" "REGISTRY_STORAGE_S3_SESSIONTOKEN" "secret" . "key" $.Values.s3.sessionTokenKey) -}}
{{- end -}}
{{- else if eq .Values.storage "azure" -}}
{{- with include "moorage.azureSecret" . -}}
{{- $azure := $.Values.azure -}}
{{- if not $azure.existingSecret -}}
{{- $given := $.Values.secrets.azure | default dict -}}
{{- $azure = dict "accountNameKey" (ternary "azureAccountName" "" (not (empty $given.accountName))) "containerKey" (ternary "azureContainer" "" (not (empty $given.container))) -}}
{{- end -}}
{{- $found = append $found (dict "variable" "REGISTRY_STORAGE_AZURE_ACCOUNTKEY" "secret" . "key" ($azure.accountKeyKey | default "azureAccountKey")) -}}
{{- $found = append $found (dict "variable" "REGISTRY_STORAGE_AZURE_ACCOUNTNAME" "secret" . "key" $azure.accountNameKey) -}}
{{- $found = append $found (dict "variable" "REGISTRY_STORAGE_AZURE_CONTAINER" "secret" . "key" $azure.containerKey) -}}
{{- end -}}
{{- end -}}
{{- if .Values.redis.addrs -}}
{{- with .Values.redis.existingSecret -}}
{{- $found = append $found (dict "variable" "REGISTRY_REDIS_PASSWORD" "secret" . "key" $.Values.redis.passwordKey) -}}
{{- $found = append $found (dict "variable" "REGISTRY_REDIS_USERNAME" "secret" . "key" $.Values.redis.usernameKey) -}}
{{- $found = append $found (dict "variable" "REGISTRY_REDIS_SENTINELPASSWORD" "secret" . "key" $.Values.redis.sentinelPasswordKey) -}}
{{- end -}}
{{- end -}}
{{- with include "moorage.proxySecret" . -}}
{{- $found = append $found (dict "variable" "REGISTRY_PROXY_USERNAME" "secret" . "key" "proxyUsername") -}}
{{- $found = append $found (dict "variable" "REGISTRY_PROXY_PASSWORD" "secret" . "key" "proxyPassword") -}}
{{- end -}}
{{- $given := include "moorage.givenVariables" . -}}
{{- $settings := list -}}
{{- range $found -}}
{{- if and .key (not (contains (printf " %s " .variable) $given)) (not (contains (printf " %s_FILE " .variable) $given)) -}}
{{- $settings = append $settings (set . "path" (.variable | trimPrefix "REGISTRY_" | lower | replace "_" "-")) -}}
{{- end -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{- define "moorage.env" -}}
{{- range include "moorage.secretSettings" . | fromYamlArray }}
- name: {{ .variable }}_FILE
  value: /etc/moorage/secrets/{{ .path }}
{{- end }}
{{- range concat (.Values.extraEnv | default list) (.Values.extraEnvVars | default list) }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end -}}

{{- define "moorage.volumeMounts" -}}
- name: {{ include "moorage.fullname" . }}-config
  mountPath: {{ .Values.configPath }}
  readOnly: true
{{- if or .Values.auth.local.existingSecret (include "moorage.htpasswdSecret" .) }}
- name: auth
  mountPath: /auth
  readOnly: true
{{- end }}
{{- if eq .Values.storage "filesystem" }}
- name: data
  mountPath: /var/lib/registry
{{- end }}
{{- if include "moorage.tlsSecret" . }}
- name: tls-cert
  mountPath: /etc/ssl/docker
  readOnly: true
{{- end }}
{{- if include "moorage.secretSettings" . | fromYamlArray }}
- name: moorage-secrets
  mountPath: /etc/moorage/secrets
  readOnly: true
{{- end }}
{{- if and (eq .Values.storage "gcs") .Values.gcs.existingSecret }}
- name: gcs-credentials
  mountPath: /etc/moorage/gcs
  readOnly: true
{{- end }}
{{- if and .Values.redis.tls.enabled .Values.redis.tls.existingSecret }}
- name: redis-tls
  mountPath: /etc/moorage/redis
  readOnly: true
{{- end }}
{{- if not (include "moorage.givesTmp" .) }}
- name: moorage-tmp
  mountPath: /tmp
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* "true" where the values mount something at /tmp. */}}
{{- define "moorage.givesTmp" -}}
{{- range .Values.extraVolumeMounts }}{{ if eq (trimSuffix "/" .mountPath) "/tmp" }}true{{ end }}{{ end -}}
{{- end -}}

{{- define "moorage.volumes" -}}
- name: {{ include "moorage.fullname" . }}-config
  configMap:
    name: {{ include "moorage.fullname" . }}-config
{{- if .Values.auth.local.existingSecret }}
- name: auth
  secret:
    secretName: {{ .Values.auth.local.existingSecret | quote }}
    defaultMode: {{ include "moorage.secretMode" . }}
    items:
      - key: {{ .Values.auth.local.policyKey | quote }}
        path: {{ .Values.auth.local.policyKey | quote }}
      {{- with .Values.auth.local.usersKey }}
      - key: {{ . | quote }}
        path: {{ . | quote }}
      {{- end }}
{{- else if include "moorage.htpasswdSecret" . }}
- name: auth
  secret:
    secretName: {{ include "moorage.htpasswdSecret" . | quote }}
    defaultMode: {{ include "moorage.secretMode" . }}
    items:
      - key: {{ ternary .Values.auth.htpasswd.existingSecretKey "htpasswd" (not (empty .Values.auth.htpasswd.existingSecret)) | quote }}
        path: htpasswd
{{- end }}
{{- if eq .Values.storage "filesystem" }}
- name: data
  {{- if .Values.persistence.enabled }}
  persistentVolumeClaim:
    claimName: {{ include "moorage.claim" . }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- with include "moorage.tlsSecret" . }}
- name: tls-cert
  secret:
    secretName: {{ . | quote }}
    defaultMode: {{ include "moorage.secretMode" $ }}
{{- end }}
{{- with include "moorage.secretSettings" . | fromYamlArray }}
- name: moorage-secrets
  projected:
    defaultMode: {{ include "moorage.secretMode" $ }}
    sources:
      {{- range . }}
      - secret:
          name: {{ .secret | quote }}
          items:
            - {key: {{ .key | quote }}, path: {{ .path }}}
      {{- end }}
{{- end }}
{{- if and (eq .Values.storage "gcs") .Values.gcs.existingSecret }}
- name: gcs-credentials
  secret:
    secretName: {{ .Values.gcs.existingSecret | quote }}
    defaultMode: {{ include "moorage.secretMode" . }}
{{- end }}
{{- if and .Values.redis.tls.enabled .Values.redis.tls.existingSecret }}
- name: redis-tls
  secret:
    secretName: {{ .Values.redis.tls.existingSecret | quote }}
    defaultMode: {{ include "moorage.secretMode" . }}
{{- end }}
{{- if not (include "moorage.givesTmp" .) }}
- name: moorage-tmp
  emptyDir: {}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A probe. Takes root, path and settings. The debug listener is asked where clients need certificates. */}}
{{- define "moorage.probe" -}}
httpGet:
  path: {{ .path }}
  {{- if include "moorage.clientCertificates" .root }}
  port: http-metrics
  {{- else }}
  port: registry
  {{- if include "moorage.tls" .root }}
  scheme: HTTPS
  {{- end }}
  {{- end }}
{{- with .settings }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Containers of the values; those without a securityContext get one that the restricted standard allows. */}}
{{- define "moorage.extraContainers" -}}
{{- range .containers }}
{{- $container := deepCopy . }}
{{- if and $.root.Values.containerSecurityContext.enabled (not (hasKey $container "securityContext")) }}
{{- $_ := set $container "securityContext" (dict "allowPrivilegeEscalation" false "runAsNonRoot" true "capabilities" (dict "drop" (list "ALL")) "seccompProfile" (dict "type" "RuntimeDefault")) }}
{{- end }}
- {{ toYaml $container | nindent 2 | trim }}
{{- end }}
{{- end -}}
