package endpoint

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

func kubeconfig(t *testing.T, server string) []byte {
	t.Helper()
	out, err := clientcmd.Write(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: server, CertificateAuthorityData: []byte("ca")}},
		Contexts: map[string]*clientcmdapi.Context{"c": {Cluster: "c"}}, CurrentContext: "c",
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Kubeconfig Secrets of clusters are led to loopback, once; others are left alone.
func TestHandle(t *testing.T) {
	for name, tt := range map[string]struct {
		secret string
		label  string
		data   map[string][]byte
		server string // after it; empty if nothing is patched
		denied string
	}{
		"kubeconfig":             {"c-kubeconfig", "c", map[string][]byte{"value": kubeconfig(t, "https://10.20.30.10:6443"), "x": nil}, "https://127.0.0.1:1", ""},
		"other secret":           {"c-ca", "c", map[string][]byte{"value": kubeconfig(t, "https://10.20.30.10:6443")}, "", ""},
		"of no cluster":          {"c-kubeconfig", "", map[string][]byte{"value": kubeconfig(t, "https://10.20.30.10:6443")}, "", ""},
		"no kubeconfig in it":    {"c-kubeconfig", "c", nil, "", ""},
		"something else in it":   {"c-kubeconfig", "c", map[string][]byte{"value": []byte("\x00")}, "", "kubeconfig of cluster ns/c"},
		"server without https":   {"c-kubeconfig", "c", map[string][]byte{"value": kubeconfig(t, "http://10.0.0.1")}, "", "is not https"},
		"kubeconfig, second go ": {"c-kubeconfig", "c", map[string][]byte{"value": led(t)}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: tt.secret, Labels: map[string]string{"cluster.x-k8s.io/cluster-name": tt.label}}, Data: tt.data}
			raw, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			got := handler{"127.0.0.1:1"}.Handle(t.Context(), admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
				Namespace: "ns", Object: runtime.RawExtension{Raw: raw},
			}})
			if got.Allowed != (tt.denied == "") {
				t.Fatalf("answer %+v", got)
			}
			if tt.denied != "" && !strings.Contains(got.Result.Message, tt.denied) {
				t.Errorf("message %q, want %q", got.Result.Message, tt.denied)
			}
			if tt.server == "" {
				if len(got.Patches) > 0 {
					t.Errorf("patched: %v", got.Patches)
				}
				return
			}
			if len(got.Patches) != 1 || got.Patches[0].Path != "/data/value" {
				t.Fatalf("patches %v", got.Patches)
			}
			content, err := base64.StdEncoding.DecodeString(got.Patches[0].Value.(string))
			if err != nil {
				t.Fatal(err)
			}
			config, err := clientcmd.Load(content)
			if err != nil {
				t.Fatal(err)
			}
			c := config.Clusters["c"]
			if diff := cmp.Diff([]string{tt.server, "ca"}, []string{c.Server, string(c.CertificateAuthorityData)}); diff != "" {
				t.Error(diff)
			}
			if c.TLSServerName == "" {
				t.Error("no TLS server name")
			}
		})
	}
}

var cluster = types.NamespacedName{Namespace: "ns", Name: "c"}

func led(t *testing.T) []byte {
	t.Helper()
	out, err := lead(kubeconfig(t, "https://10.20.30.10:6443"), "127.0.0.1:1", cluster)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
