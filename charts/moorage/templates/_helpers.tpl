{{/* Names as twuni/docker-registry.helm builds them: with nameOverride: docker-registry they are equal. */}}
{{- define "moorage.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "moorage.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "moorage.namespace" -}}
{{- .Values.namespace | default .Release.Namespace -}}
{{- end -}}

{{- define "moorage.claim" -}}
{{- .Values.persistence.existingClaim | default (include "moorage.fullname" .) -}}
{{- end -}}

{{- define "moorage.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The labels of twuni's selectors, which cannot be changed on a Deployment that exists. */}}
{{- define "moorage.selectorLabels" -}}
app: {{ include "moorage.name" . }}
release: {{ .Release.Name }}
{{- end -}}

{{/* Labels of pods: without versions, so that a new chart alone starts none anew. */}}
{{- define "moorage.podLabels" -}}
{{ include "moorage.selectorLabels" . }}
app.kubernetes.io/name: {{ include "moorage.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: registry
{{- end -}}

{{- define "moorage.labels" -}}
{{ include "moorage.podLabels" . }}
chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
heritage: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Metadata of an object. Takes root, and optionally suffix, labels, annotations, namespace. */}}
{{- define "moorage.metadata" -}}
name: {{ printf "%s%s" (include "moorage.fullname" .root) (.suffix | default "") }}
namespace: {{ .namespace | default (include "moorage.namespace" .root) }}
labels:
  {{- mergeOverwrite (include "moorage.labels" .root | fromYaml) (.labels | default dict) | toYaml | nindent 2 }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "moorage.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "moorage.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "moorage.port" -}}
{{- regexFind "[0-9]+$" (dig "http" "addr" ":5000" (include "moorage.given" . | fromYaml) | toString) -}}
{{- end -}}

{{- define "moorage.metricsPort" -}}
{{- regexFind "[0-9]+$" (dig "http" "debug" "addr" "" (include "moorage.given" . | fromYaml) | default ":5001" | toString) -}}
{{- end -}}

{{/* "true" where TLS ends in the pod. */}}
{{- define "moorage.tls" -}}
{{- if or (include "moorage.tlsSecret" .) (dig "http" "tls" "certificate" "" (include "moorage.given" . | fromYaml)) (dig "http" "tls" "letsencrypt" "" (include "moorage.given" . | fromYaml)) -}}
true
{{- end -}}
{{- end -}}

{{- define "moorage.tlsSecret" -}}
{{- .Values.tls.existingSecret | default .Values.tlsSecretName -}}
{{- end -}}

{{/* "true" where clients, and so probes, need a certificate. */}}
{{- define "moorage.clientCertificates" -}}
{{- $optional := has (dig "http" "tls" "clientauth" "" (include "moorage.given" . | fromYaml)) (list "verify-client-cert-if-given" "request-client-cert") -}}
{{- if and (or .Values.tls.clientCAsKey (dig "http" "tls" "clientcas" "" (include "moorage.given" . | fromYaml))) (not $optional) -}}
true
{{- end -}}
{{- end -}}

{{/* "true" where more than one pod may serve at the same time. */}}
{{- define "moorage.severalPods" -}}
{{- if or (gt (int .Values.replicaCount) 1) .Values.autoscaling.enabled -}}
true
{{- end -}}
{{- end -}}

{{/* "true" where pods on several nodes may write to the storage. */}}
{{- define "moorage.sharedStorage" -}}
{{- if or (ne .Values.storage "filesystem") (and .Values.persistence.enabled (eq .Values.persistence.accessMode "ReadWriteMany")) -}}
true
{{- end -}}
{{- end -}}

{{/* rollingUpdate: null removes what an earlier strategy has left in the object: the API refuses both together. */}}
{{- define "moorage.strategy" -}}
{{- if .Values.updateStrategy -}}
{{- $strategy := deepCopy .Values.updateStrategy -}}
{{- if eq (get $strategy "type" | default "RollingUpdate") "Recreate" -}}
{{- $_ := set $strategy "rollingUpdate" nil -}}
{{- end -}}
{{- toYaml $strategy -}}
{{- else if include "moorage.sharedStorage" . -}}
type: RollingUpdate
rollingUpdate:
  maxSurge: 1
  maxUnavailable: 0
{{- else -}}
type: Recreate
rollingUpdate: null
{{- end -}}
{{- end -}}

{{/* Whole seconds of a duration such as 1m30s. */}}
{{- define "moorage.seconds" -}}
{{- $hours := regexFind "[0-9]+h" . | trimSuffix "h" | int -}}
{{- $minutes := regexFind "[0-9]+m" . | trimSuffix "m" | int -}}
{{- $seconds := regexFind "[0-9]+s" . | trimSuffix "s" | int -}}
{{- add (mul 3600 $hours) (mul 60 $minutes) $seconds -}}
{{- end -}}

{{/* The least grace period: the pause before SIGTERM, the drain time and a margin. */}}
{{- define "moorage.leastGrace" -}}
{{- $drain := dig "http" "draintimeout" "0s" (include "moorage.given" . | fromYaml) | toString -}}
{{- add (int .Values.preStopSleepSeconds) (include "moorage.seconds" $drain | int) 10 -}}
{{- end -}}

{{- define "moorage.grace" -}}
{{- .Values.terminationGracePeriodSeconds | default (add (include "moorage.leastGrace" . | int) 5) | int -}}
{{- end -}}

{{/* Name of the Secret with http.secret, or nothing. */}}
{{- define "moorage.httpSecret" -}}
{{- if .Values.http.existingSecret -}}
{{- .Values.http.existingSecret -}}
{{- else if .Values.secrets.haSharedSecret -}}
{{- include "moorage.fullname" . }}-secret
{{- end -}}
{{- end -}}

{{/* Name of the Secret with the password file, or nothing. */}}
{{- define "moorage.htpasswdSecret" -}}
{{- if .Values.auth.htpasswd.existingSecret -}}
{{- .Values.auth.htpasswd.existingSecret -}}
{{- else if .Values.secrets.htpasswd -}}
{{- include "moorage.fullname" . }}-secret
{{- end -}}
{{- end -}}

{{/* "true" where clients must authenticate. */}}
{{- define "moorage.authentication" -}}
{{- $configured := .Values.configData.auth -}}
{{- $none := or (eq (toString $configured) "none") (and (kindIs "map" $configured) (hasKey ($configured | default dict) "none")) -}}
{{- if or (include "moorage.htpasswdSecret" .) .Values.auth.local.existingSecret (and $configured (not $none)) -}}
true
{{- end -}}
{{- end -}}

{{- define "moorage.s3Secret" -}}
{{- $s3 := .Values.secrets.s3 | default dict -}}
{{- if .Values.s3.existingSecret -}}
{{- .Values.s3.existingSecret -}}
{{- else if $s3.secretRef -}}
{{- $s3.secretRef -}}
{{- else if and $s3.accessKey $s3.secretKey -}}
{{- include "moorage.fullname" . }}-secret
{{- end -}}
{{- end -}}

{{/* Name of the Secret with the account at the upstream registry, or nothing. */}}
{{- define "moorage.proxySecret" -}}
{{- if .Values.proxy.enabled -}}
{{- if .Values.proxy.secretRef -}}
{{- .Values.proxy.secretRef -}}
{{- else if and .Values.proxy.username .Values.proxy.password -}}
{{- include "moorage.fullname" . }}-secret
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "moorage.azureSecret" -}}
{{- $azure := .Values.secrets.azure | default dict -}}
{{- if .Values.azure.existingSecret -}}
{{- .Values.azure.existingSecret -}}
{{- else if $azure.accountKey -}}
{{- include "moorage.fullname" . }}-secret
{{- end -}}
{{- end -}}

{{/* Mode of secrets as files: for the group of the pod where it has one. */}}
{{- define "moorage.secretMode" -}}
{{- if and .Values.securityContext.enabled .Values.securityContext.fsGroup }}0440{{ else }}0444{{ end -}}
{{- end -}}

{{/* Names of the variables that the values give, each between spaces. */}}
{{- define "moorage.givenVariables" -}}
{{- range concat (.Values.extraEnv | default list) (.Values.extraEnvVars | default list) }} {{ .name }} {{ end -}}
{{- end -}}

{{/* The scheme, host and port that clients use. */}}
{{- define "moorage.address" -}}
{{- $tls := include "moorage.tls" . -}}
{{- if dig "http" "host" "" (include "moorage.given" . | fromYaml) -}}
{{- dig "http" "host" "" (include "moorage.given" . | fromYaml) | trimSuffix "/" -}}
{{- else if and .Values.httpRoute.enabled .Values.httpRoute.hostnames -}}
https://{{ first .Values.httpRoute.hostnames }}
{{- else if .Values.ingress.enabled -}}
http{{ if .Values.ingress.tls }}s{{ end }}://{{ first .Values.ingress.hosts }}
{{- else -}}
http{{ if $tls }}s{{ end }}://{{ include "moorage.fullname" . }}.{{ include "moorage.namespace" . }}.svc:{{ .Values.service.port }}
{{- end -}}
{{- end -}}
