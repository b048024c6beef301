{{/* All but the last take (list $ "kernel-collector" .Values.kernelCollector): the root, a daemon's name, its values. */}}

{{/* In a release that has the chart's name objects have the daemon's, else the release's name stands before it. */}}
{{- define "ebpf-net.name" -}}
{{- $release := (first .).Release.Name | trunc 40 | trimSuffix "-" }}
{{- if ne $release (first .).Chart.Name }}{{ $release }}-{{ end }}{{ index . 1 }}
{{- end }}

{{- define "ebpf-net.selector" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (first .).Release.Name | quote }}
{{- end }}

{{/* Metadata of what is of no namespace. */}}
{{- define "ebpf-net.clusterMetadata" -}}
name: {{ include "ebpf-net.name" . }}
labels:
  {{- include "ebpf-net.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ (first .).Chart.AppVersion | quote }}
  app.kubernetes.io/part-of: {{ (first .).Chart.Name }}
{{- end }}

{{- define "ebpf-net.metadata" -}}
{{ include "ebpf-net.clusterMetadata" . }}
namespace: {{ (first .).Release.Namespace | quote }}
{{- end }}

{{- define "ebpf-net.podMetadata" -}}
labels:
  {{- include "ebpf-net.selector" . | nindent 2 }}
  {{- with (last .).podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with (last .).podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "ebpf-net.accountName" -}}
{{ (last .).serviceAccount.name | default (include "ebpf-net.name" .) }}
{{- end }}

{{- define "ebpf-net.account" -}}
{{- with (last .).serviceAccount }}
{{- if not .name }}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "ebpf-net.metadata" $ | nindent 2 }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
---
{{- end }}
{{- end }}
{{- end }}

{{/* Where a pod goes, and what it is there. */}}
{{- define "ebpf-net.pod" -}}
serviceAccountName: {{ include "ebpf-net.accountName" . | quote }}
{{- with (first .).Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- range $key := list "nodeSelector" "affinity" "tolerations" }}
{{- with get (last $) $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ebpf-net.container" -}}
name: {{ index . 1 }}
{{- with (first .).Values.image }}
image: {{ with .registry }}{{ trimSuffix "/" . }}/{{ end }}{{ index $ 1 }}:{{ .tag | default (first $).Chart.AppVersion }}
imagePullPolicy: {{ .pullPolicy }}
{{- end }}
{{- with (last .).resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Variables of a collector. */}}
{{- define "ebpf-net.collectorEnv" -}}
{{- $root := first . }}
{{- with $root.Values.intake }}
{{- if and .host $root.Values.reducer.enabled }}
{{- fail "intake.host is of a reducer outside of this release: set reducer.enabled=false, or leave it out" }}
{{- end }}
- name: EBPF_NET_INTAKE_HOST
{{- if $root.Values.reducer.enabled }}
  value: {{ include "ebpf-net.name" (list $root "reducer") }}.{{ $root.Release.Namespace }}.svc
- name: EBPF_NET_INTAKE_PORT
  value: "8000"
{{- else }}
  value: {{ required "reducer.enabled is false: intake.host has to say where the reducer is" .host | quote }}
- name: EBPF_NET_INTAKE_PORT
  value: {{ .port | quote }}
{{- end }}
{{- if .tls.authoritySecret }}
- name: EBPF_NET_INTAKE_TLS_CA
  value: /etc/ebpf-net/authority/ca.crt
{{- end }}
{{- if .tls.collectorSecret }}
- name: EBPF_NET_INTAKE_TLS_CERTIFICATE
  value: /etc/ebpf-net/certificate/tls.crt
- name: EBPF_NET_INTAKE_TLS_KEY
  value: /etc/ebpf-net/certificate/tls.key
{{- end }}
{{- if .tokenSecret }}
- name: EBPF_NET_INTAKE_TOKEN_FILE
  value: /etc/ebpf-net/token/token
{{- end }}
{{- end }}
{{- with (last .).env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Where secrets are mounted, and what else a daemon is given; it takes the root, the name of its certificate's Secret, the daemon's values. */}}
{{- define "ebpf-net.mounts" -}}
{{- with (first .).Values.intake }}
{{- if and (or .tls.reducerSecret .tls.collectorSecret) (not .tls.authoritySecret) }}
{{- fail "intake.tls.authoritySecret has to name the Secret with the ca.crt that the certificates are checked with" }}
{{- end }}
{{- if and .tls.authoritySecret (first $).Values.reducer.enabled (not .tls.reducerSecret) }}
{{- fail "intake.tls.reducerSecret has to name the Secret with the reducer's certificate, which intake.tls.authoritySecret is for" }}
{{- end }}
{{- if .tls.authoritySecret }}
- {name: authority, mountPath: /etc/ebpf-net/authority, readOnly: true}
{{- end }}
{{- if index $ 1 }}
- {name: certificate, mountPath: /etc/ebpf-net/certificate, readOnly: true}
{{- end }}
{{- if .tokenSecret }}
- {name: token, mountPath: /etc/ebpf-net/token, readOnly: true}
{{- end }}
{{- end }}
{{- with (last .).extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ebpf-net.volumes" -}}
{{- with (first .).Values.intake }}
{{- with .tls.authoritySecret }}
- name: authority
  secret: {secretName: {{ . | quote }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- with index $ 1 }}
- name: certificate
  secret: {secretName: {{ . | quote }}}
{{- end }}
{{- with .tokenSecret }}
- name: token
  secret: {secretName: {{ . | quote }}}
{{- end }}
{{- end }}
{{- with (last .).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
