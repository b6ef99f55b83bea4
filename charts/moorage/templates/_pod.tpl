{{/* Variables of the container: secrets, then those of the values, which win. */}}
{{- define "moorage.env" -}}
{{- with include "moorage.httpSecret" . }}
{{- include "moorage.secretVariable" (dict "root" $ "variable" "REGISTRY_HTTP_SECRET" "secret" . "key" (ternary $.Values.http.existingSecretKey "haSharedSecret" (not (empty $.Values.http.existingSecret)))) }}
{{- end }}
{{- if eq .Values.storage "s3" }}
{{- with include "moorage.s3Secret" . }}
{{- include "moorage.secretVariable" (dict "root" $ "variable" "REGISTRY_STORAGE_S3_ACCESSKEY" "secret" . "key" ($.Values.s3.accessKeyKey | default "s3AccessKey")) }}
{{- include "moorage.secretVariable" (dict "root" $ "variable" "REGISTRY_STORAGE_S3_SECRETKEY" "secret" . "key" ($.Values.s3.secretKeyKey | default "s3SecretKey")) }}
{{- if $.Values.s3.sessionTokenKey }}
{{- include "moorage.secretVariable" (dict "root" $ "variable" "REGISTRY_STORAGE_S3_SESSIONTOKEN" "secret" . "key" $.Values.s3.sessionTokenKey) }}
{{- end }}
{{- end }}
{{- else if eq .Values.storage "azure" }}
{{- with include "moorage.azureSecret" . }}
{{- $ours := not $.Values.azure.existingSecret }}
{{- $azure := $.Values.secrets.azure | default dict }}
{{- include "moorage.secretVariable" (dict "root" $ "variable" "REGISTRY_STORAGE_AZURE_ACCOUNTKEY" "secret" . "key" ($.Values.azure.accountKeyKey | default "azureAccountKey")) }}
{{- with ternary (ternary "azureAccountName" "" (not (empty $azure.accountName))) ($.Values.azure.accountNameKey | default "") $ours }}
{{- include "moorage.secretVariable" (dict "root" $ "variable" "REGISTRY_STORAGE_AZURE_ACCOUNTNAME" "secret" (include "moorage.azureSecret" $) "key" .) }}
{{- end }}
{{- with ternary (ternary "azureContainer" "" (not (empty $azure.container))) ($.Values.azure.containerKey | default "") $ours }}
{{- include "moorage.secretVariable" (dict "root" $ "variable" "REGISTRY_STORAGE_AZURE_CONTAINER" "secret" (include "moorage.azureSecret" $) "key" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.redis.addrs .Values.redis.existingSecret }}
{{- range $variable, $key := dict "REGISTRY_REDIS_PASSWORD" .Values.redis.passwordKey "REGISTRY_REDIS_USERNAME" .Values.redis.usernameKey "REGISTRY_REDIS_SENTINELPASSWORD" .Values.redis.sentinelPasswordKey }}
{{- if $key }}
{{- include "moorage.secretVariable" (dict "root" $ "variable" $variable "secret" $.Values.redis.existingSecret "key" $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- range concat .Values.extraEnv .Values.extraEnvVars }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end -}}

{{/* A variable from a key of a Secret, unless the values give the variable themselves. */}}
{{- define "moorage.secretVariable" -}}
{{- if not (contains (printf " %s " .variable) (include "moorage.givenVariables" .root)) }}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret | quote }}
      key: {{ .key | quote }}
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
{{ toYaml .settings }}
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
