package crictl

import (
	"context"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runtimeStub is a runtime that keeps what it is given. Methods that no verb
// under test needs are those of the nil interface and panic.
type runtimeStub struct {
	internalapi.RuntimeService
	pods       []*runtimeapi.PodSandbox
	containers []*runtimeapi.Container
	logs       map[string]string
}

func notFound(kind, id string) error {
	return status.Errorf(codes.NotFound, "%s %q not found", kind, id)
}

func fits(want, have map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

func (r *runtimeStub) Close(context.Context) error { return nil }

func (r *runtimeStub) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "stub", RuntimeVersion: "v9", RuntimeApiVersion: "v1"}, nil
}

func (r *runtimeStub) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: "RuntimeReady", Status: true}}}}, nil
}

func (r *runtimeStub) ListPodSandbox(_ context.Context, f *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	var out []*runtimeapi.PodSandbox
	for _, p := range r.pods {
		if (f.State == nil || f.State.State == p.State) && strings.HasPrefix(p.Id, f.Id) && fits(f.LabelSelector, p.Labels) {
			out = append(out, p)
		}
	}
	return out, nil
}

func (r *runtimeStub) ListContainers(_ context.Context, f *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	var out []*runtimeapi.Container
	for _, c := range r.containers {
		if (f.State == nil || f.State.State == c.State) && strings.HasPrefix(c.Id, f.Id) && strings.HasPrefix(c.PodSandboxId, f.PodSandboxId) && fits(f.LabelSelector, c.Labels) {
			out = append(out, c)
		}
	}
	return out, nil
}

func (r *runtimeStub) ContainerStatus(_ context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	for _, c := range r.containers {
		if c.Id == id {
			out := &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{
				Id: c.Id, Metadata: c.Metadata, State: c.State, CreatedAt: c.CreatedAt, Labels: c.Labels, LogPath: r.logs[id],
			}}
			if verbose {
				out.Info = map[string]string{"info": `{"pid":42}`}
			}
			return out, nil
		}
	}
	return nil, notFound("container", id)
}

func (r *runtimeStub) PodSandboxStatus(_ context.Context, id string, _ bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	for _, p := range r.pods {
		if p.Id == id {
			return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{Id: p.Id, State: p.State}}, nil
		}
	}
	return nil, notFound("pod", id)
}

func (r *runtimeStub) StopContainer(_ context.Context, id string, _ int64) error {
	for _, c := range r.containers {
		if c.Id == id {
			c.State = runtimeapi.ContainerState_CONTAINER_EXITED
			return nil
		}
	}
	return notFound("container", id)
}

func (r *runtimeStub) RemoveContainer(_ context.Context, id string) error {
	for i, c := range r.containers {
		if c.Id == id {
			r.containers = append(r.containers[:i], r.containers[i+1:]...)
			return nil
		}
	}
	return notFound("container", id)
}

func (r *runtimeStub) StopPodSandbox(_ context.Context, id string) error {
	for _, p := range r.pods {
		if p.Id == id {
			p.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
			return nil
		}
	}
	return notFound("pod", id)
}

func (r *runtimeStub) RemovePodSandbox(_ context.Context, id string) error {
	for i, p := range r.pods {
		if p.Id == id {
			r.pods = append(r.pods[:i], r.pods[i+1:]...)
			return nil
		}
	}
	return notFound("pod", id)
}

// imageStub is an image service that keeps what it is given.
type imageStub struct {
	internalapi.ImageManagerService
	images []*runtimeapi.Image
	pulled []*runtimeapi.AuthConfig
}

func (s *imageStub) Close(context.Context) error { return nil }

func (s *imageStub) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return append([]*runtimeapi.Image(nil), s.images...), nil
}

func (s *imageStub) find(name string) int {
	for i, m := range s.images {
		if m.Id == name || strings.Contains(" "+strings.Join(m.RepoTags, " ")+" ", " "+name+" ") {
			return i
		}
	}
	return -1
}

func (s *imageStub) ImageStatus(_ context.Context, spec *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	if i := s.find(spec.Image); i >= 0 {
		return &runtimeapi.ImageStatusResponse{Image: s.images[i]}, nil
	}
	return &runtimeapi.ImageStatusResponse{}, nil
}

func (s *imageStub) RemoveImage(_ context.Context, spec *runtimeapi.ImageSpec) error {
	if i := s.find(spec.Image); i >= 0 {
		s.images = append(s.images[:i], s.images[i+1:]...)
	}
	return nil
}

func (s *imageStub) PullImage(_ context.Context, spec *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	s.pulled = append(s.pulled, auth)
	return "sha256:" + spec.Image, nil
}
