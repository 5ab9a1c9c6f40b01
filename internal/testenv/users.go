package testenv

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// masters is the group that may do everything.
const masters = "system:masters"

// Config returns the configuration of a user who may do everything. There is no
// limit on requests at the client's side. It panics if a certificate can't be
// made.
func (e *Env) Config(user string) *rest.Config {
	return rest.CopyConfig(e.user(user, masters).Config())
}

// Restricted returns the configuration of a user with just the given rights, in
// one namespace or, if that is empty, everywhere.
func (e *Env) Restricted(t testing.TB, user, namespace string, rules ...rbacv1.PolicyRule) *rest.Config {
	t.Helper()
	e.Grant(t, rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}, namespace, rules...)
	return rest.CopyConfig(e.user(user).Config())
}

// Grant gives a subject, such as a ServiceAccount, rights in one namespace or,
// if that is empty, everywhere. The API server's authorizer sees them a moment
// later: wait for the first allowed request.
func (e *Env) Grant(t testing.TB, subject rbacv1.Subject, namespace string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	ctx := context.Background()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}, Rules: rules}
	if err := e.client.Create(ctx, role); err != nil {
		t.Fatalf("testenv: %v", err)
	}
	meta := metav1.ObjectMeta{Name: role.Name, Namespace: namespace}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name}
	var err error
	if namespace == "" {
		err = e.client.Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: []rbacv1.Subject{subject}})
	} else {
		err = e.client.Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: []rbacv1.Subject{subject}})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatalf("testenv: %v", err)
	}
}

// Kubeconfig writes a kubeconfig file for a user who may do everything and
// returns its path.
func (e *Env) Kubeconfig(t testing.TB, user string) string {
	t.Helper()
	content, err := e.user(user, masters).KubeConfig()
	if err != nil {
		t.Fatalf("testenv: kubeconfig of %s: %v", user, err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatalf("testenv: %v", err)
	}
	return path
}

// user returns a user, made on first use.
func (e *Env) user(name string, groups ...string) *envtest.AuthenticatedUser {
	e.mu.Lock()
	defer e.mu.Unlock()
	if u := e.users[name]; u != nil {
		return u
	}
	u, err := e.plane.AddUser(envtest.User{Name: name, Groups: groups}, &rest.Config{QPS: -1})
	if err != nil {
		panic("testenv: user " + name + ": " + err.Error())
	}
	u.Config() // completes it, so that later calls only read
	e.users[name] = u
	return u
}
