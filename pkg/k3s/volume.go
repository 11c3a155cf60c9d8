package k3s

import corev1 "k8s.io/api/core/v1"

// localPath is what K3s' provisioner calls itself.
const localPath = "rancher.io/local-path"

// volume notes where a volume of K3s' provisioner keeps its data: the directory
// stays where it is.
func (s *survey) volume(o *object) {
	if o.meta.Annotations["pv.kubernetes.io/provisioned-by"] != localPath || !o.proto {
		return
	}
	var v corev1.PersistentVolume
	if v.Unmarshal(o.body) != nil {
		return
	}
	switch {
	case v.Spec.HostPath != nil:
		s.objects.LocalPath = append(s.objects.LocalPath, v.Spec.HostPath.Path)
	case v.Spec.Local != nil:
		s.objects.LocalPath = append(s.objects.LocalPath, v.Spec.Local.Path)
	}
}
