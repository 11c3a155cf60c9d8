package shop

// cluster is all that the shop asks of Kubernetes. IMAGE stands for the test
// image.
const cluster = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: till, namespace: shop}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 16Mi}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: till, namespace: shop}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: till}}
  template:
    metadata: {labels: {app: till}}
    spec:
      terminationGracePeriodSeconds: 0
      volumes: [{name: data, persistentVolumeClaim: {claimName: till}}]
      containers:
      - name: till
        image: IMAGE
        imagePullPolicy: Never
        command: [/tool, serve]
        securityContext: {runAsUser: 1000, runAsGroup: 1000}
        volumeMounts: [{name: data, mountPath: /data}]
---
apiVersion: v1
kind: Service
metadata: {name: till, namespace: shop}
spec: {selector: {app: till}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: till, namespace: shop}
spec:
  podSelector: {matchLabels: {app: till}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: friend}}}]
    ports: [{port: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: friend, namespace: shop}
spec:
  selector: {matchLabels: {app: friend}}
  template:
    metadata: {labels: {app: friend}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: friend, image: IMAGE, imagePullPolicy: Never, command: [sleep, "86400"]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: front, namespace: shop}
spec:
  selector: {matchLabels: {app: front}}
  template:
    metadata: {labels: {app: front}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: front
        image: IMAGE
        imagePullPolicy: Never
        command: [/tool, serve]
        resources: {requests: {cpu: 10m, memory: 16Mi}}
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: front, namespace: shop}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: front}
  ports: [{port: 8088, targetPort: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: front, namespace: shop}
spec:
  rules:
  - host: shop.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: front, port: {number: 8088}}}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: door, namespace: shop}
spec:
  gatewayClassName: skiff
  listeners: [{name: http, protocol: HTTP, port: 8000}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: front, namespace: shop}
spec:
  parentRefs: [{name: door}]
  hostnames: [route.test]
  rules: [{backendRefs: [{name: front, port: 8088}]}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: front, namespace: shop}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: front}
  minReplicas: 1
  maxReplicas: 2
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 5000}}}]
---
apiVersion: helm.cattle.io/v1
kind: HelmChart
metadata: {name: menu, namespace: kube-system}
spec:
  chart: https://%{KUBERNETES_API}%/static/charts/menu.tgz
  targetNamespace: shop
  valuesContent: "today: soup"
`
