package apiserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/rest"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	schedulingv1 "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

const (
	// bootstrapTimeout ends the process, to start over: so it has to be longer
	// than the slowest machine takes, which upstream's 30 s are not.
	bootstrapTimeout = 5 * time.Minute
	bootstrapRetry   = 200 * time.Millisecond
	// rbacWriters is how many objects are written at once; with more the
	// datastore, which writes one after the other, is only kept busier.
	rbacWriters = 8
)

// ensurePolicy brings the default RBAC roles and bindings and the system
// priority classes into the cluster. It does what upstream's hooks
// rbac/bootstrap-roles and scheduling/bootstrap-system-priority-classes do, but
// at once instead of after a second.
func ensurePolicy(ctx context.Context, loopback *rest.Config) error {
	client, err := kubernetes.NewForConfig(loopback)
	if err != nil {
		return fmt.Errorf("make client for default policy: %w", err)
	}
	var last error
	err = wait.PollUntilContextTimeout(ctx, bootstrapRetry, bootstrapTimeout, true, func(ctx context.Context) (bool, error) {
		last = errors.Join(reconcileRBAC(ctx, client), createPriorityClasses(ctx, client))
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("install default policy: %w", errors.Join(last, err))
	}
	return nil
}

// createPriorityClasses creates what is missing of the system's own classes.
func createPriorityClasses(ctx context.Context, client kubernetes.Interface) error {
	classes := client.SchedulingV1().PriorityClasses()
	list, err := classes.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list priority classes: %w", err)
	}
	known := make(map[string]bool)
	for _, c := range list.Items {
		known[c.Name] = true
	}
	for _, c := range schedulingv1.SystemPriorityClasses() {
		if known[c.Name] {
			continue
		}
		if _, err := classes.Create(ctx, c, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create priority class %s: %w", c.Name, err)
		}
	}
	return nil
}

// reconcileRBAC makes one attempt at the default roles and bindings. It adds to
// those that lack permissions of this release; what a user has added stays. It
// reads two lists where upstream reads every object by itself. Left out are
// the migrations from Kubernetes 1.8 and 1.13.
func reconcileRBAC(ctx context.Context, client kubernetes.Interface) error {
	roles, bindings, err := readRBAC(ctx, client.RbacV1())
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(rbacWriters)
	role := func(r reconciliation.RuleOwner, c reconciliation.RuleOwnerModifier) {
		g.Go(func() error {
			o := reconciliation.ReconcileRoleOptions{Role: r, Client: c, Confirm: true}
			if _, err := o.Run(); err != nil {
				return fmt.Errorf("reconcile role %s: %w", r.GetName(), err)
			}
			return nil
		})
	}
	binding := func(b reconciliation.RoleBinding, c reconciliation.RoleBindingModifier) {
		g.Go(func() error {
			o := reconciliation.ReconcileRoleBindingOptions{RoleBinding: b, Client: c, Confirm: true}
			if _, err := o.Run(); err != nil {
				return fmt.Errorf("reconcile role binding %s: %w", b.GetName(), err)
			}
			return nil
		})
	}
	for _, r := range append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...) {
		role(reconciliation.ClusterRoleRuleOwner{ClusterRole: &r}, reconciliation.ClusterRoleModifier{Client: roles})
	}
	for _, b := range append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...) {
		binding(reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &b}, reconciliation.ClusterRoleBindingClientAdapter{Client: bindings})
	}
	for _, list := range bootstrappolicy.NamespaceRoles() {
		for _, r := range list {
			role(reconciliation.RoleRuleOwner{Role: &r}, reconciliation.RoleModifier{Client: client.RbacV1(), NamespaceClient: client.CoreV1().Namespaces()})
		}
	}
	for _, list := range bootstrappolicy.NamespaceRoleBindings() {
		for _, b := range list {
			binding(reconciliation.RoleBindingAdapter{RoleBinding: &b}, reconciliation.RoleBindingClientAdapter{Client: client.RbacV1(), NamespaceClient: client.CoreV1().Namespaces()})
		}
	}
	return g.Wait()
}

// readRBAC lists what there is, and returns clients that answer Get from it.
func readRBAC(ctx context.Context, client rbacclient.RbacV1Interface) (knownRoles, knownBindings, error) {
	roles := knownRoles{client.ClusterRoles(), make(map[string]*rbacv1.ClusterRole)}
	bindings := knownBindings{client.ClusterRoleBindings(), make(map[string]*rbacv1.ClusterRoleBinding)}
	rl, err := roles.List(ctx, metav1.ListOptions{})
	if err != nil {
		return roles, bindings, fmt.Errorf("list cluster roles: %w", err)
	}
	for i := range rl.Items {
		roles.known[rl.Items[i].Name] = &rl.Items[i]
	}
	bl, err := bindings.List(ctx, metav1.ListOptions{})
	if err != nil {
		return roles, bindings, fmt.Errorf("list cluster role bindings: %w", err)
	}
	for i := range bl.Items {
		bindings.known[bl.Items[i].Name] = &bl.Items[i]
	}
	return roles, bindings, nil
}

// knownRoles answers Get from a list read before.
type knownRoles struct {
	rbacclient.ClusterRoleInterface

	known map[string]*rbacv1.ClusterRole
}

// Get implements rbacclient.ClusterRoleInterface.
func (k knownRoles) Get(_ context.Context, name string, _ metav1.GetOptions) (*rbacv1.ClusterRole, error) {
	if r, ok := k.known[name]; ok {
		return r.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource("clusterroles"), name)
}

// knownBindings answers Get from a list read before.
type knownBindings struct {
	rbacclient.ClusterRoleBindingInterface

	known map[string]*rbacv1.ClusterRoleBinding
}

// Get implements rbacclient.ClusterRoleBindingInterface.
func (k knownBindings) Get(_ context.Context, name string, _ metav1.GetOptions) (*rbacv1.ClusterRoleBinding, error) {
	if b, ok := k.known[name]; ok {
		return b.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource("clusterrolebindings"), name)
}
