package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	apiextensionsscheme "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/scheme"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	k8sscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	helper "k8s.io/controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller/validatingadmissionpolicystatus"
	"k8s.io/kubernetes/pkg/generated/openapi"
)

// discoveryAge is how long it takes at most until a policy's types are looked
// up again after the API's resources have changed; as upstream.
const discoveryAge = 30 * time.Second

// policyStatus is upstream's controller that type-checks validating admission
// policies, started when there is the first policy. It holds the schemas of
// the whole API, 10 MB that most clusters never need.
type policyStatus struct {
	config  *rest.Config
	workers int
	logger  *slog.Logger
}

// postpone takes the controller out of the list of those that start at once,
// unless that does not have it anyway, and reports whether it had it.
func postpone(list []string) ([]string, bool) {
	const name = names.ValidatingAdmissionPolicyStatusController
	if !helper.IsControllerEnabled(name, sets.NewString(app.ControllersDisabledByDefault()...), list) {
		return list, false
	}
	list = slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == name })
	return append(list, "-"+name), true
}

// run watches for policies until ctx ends.
func (p policyStatus) run(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(rest.AddUserAgent(p.config, names.ValidatingAdmissionPolicyStatusController))
	if err != nil {
		return fmt.Errorf("make client of %s: %w", names.ValidatingAdmissionPolicyStatusController, err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	policies := factory.Admissionregistration().V1().ValidatingAdmissionPolicies()
	first := make(chan struct{})
	var once sync.Once
	seen, err := policies.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { once.Do(func() { close(first) }) },
	})
	if err != nil {
		return fmt.Errorf("watch for admission policies: %w", err)
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	select {
	case <-ctx.Done():
		return nil
	case <-first:
	}
	if err := policies.Informer().RemoveEventHandler(seen); err != nil && ctx.Err() == nil {
		return fmt.Errorf("watch for admission policies: %w", err)
	}
	p.logger.Debug("type-checking admission policies from now on")

	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { wait.UntilWithContext(ctx, func(context.Context) { mapper.Reset() }, discoveryAge) })
	controller, err := validatingadmissionpolicystatus.NewController(policies,
		client.AdmissionregistrationV1().ValidatingAdmissionPolicies(),
		&validating.TypeChecker{
			SchemaResolver: resolver.NewDefinitionsSchemaResolver(openapi.GetOpenAPIDefinitions, k8sscheme.Scheme, apiextensionsscheme.Scheme).
				Combine(&resolver.ClientDiscoveryResolver{Discovery: client.Discovery()}),
			RestMapper: mapper,
		})
	if ctx.Err() != nil {
		return nil // The informer may have stopped already, and takes nobody any more.
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", names.ValidatingAdmissionPolicyStatusController, err)
	}
	controller.Run(ctx, p.workers)
	return nil
}
