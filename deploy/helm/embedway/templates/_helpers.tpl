{{- define "embedway.name" -}}
{{- $name := .Release.Name -}}
{{- contains "embedway" $name | ternary $name (printf "%s-embedway" $name) | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "embedway.selector" -}}
app.kubernetes.io/name: embedway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "embedway.labels" -}}
{{ include "embedway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Kubelet asks by the pod's address, which --allowed-hosts may not know; and by HTTPS where there is a certificate. */}}
{{- define "embedway.probe" -}}
httpGet:
  path: {{ .path }}
  port: http
  scheme: {{ empty .settings.ssl_certfile | ternary "HTTP" "HTTPS" }}
  {{- with .settings.allowed_hosts }}
  {{- if not (has "*" .) }}
  httpHeaders:
    - name: Host
      value: {{ first . | replace "*." "probe." | quote }}
  {{- end }}
  {{- end }}
timeoutSeconds: 5
{{- end -}}
