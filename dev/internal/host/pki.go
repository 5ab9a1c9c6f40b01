package host

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	validity = 10 * 365 * 24 * time.Hour
	// renewal is how long before its end a certificate is not used for a new start.
	renewal = 30 * 24 * time.Hour
)

// A pki is one authority and what it has signed, in files and in memory.
type pki struct {
	caFile string
	caPEM  []byte
	// serviceAccountKey signs the tokens of service accounts.
	serviceAccountKey string
	// serving is for the API server and webhooks, etcd for etcd, to others and to itself.
	serving, etcd identity
	// etcdClient is the API server towards etcd; the others are users of the API server.
	etcdClient, admin, controllerManager identity
}

// An identity is a certificate with its key.
type identity struct {
	certFile, keyFile string
	certPEM, keyPEM   []byte
}

// certificates is everything that the authority signs.
func (p *pki) certificates() map[*identity]certificate {
	server, client := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth
	masters := []string{"system:masters"}
	return map[*identity]certificate{
		&p.serving:           {name: "serving", subject: pkix.Name{CommonName: "devcluster"}, usages: []x509.ExtKeyUsage{server}},
		&p.etcd:              {name: "etcd", subject: pkix.Name{CommonName: "etcd"}, usages: []x509.ExtKeyUsage{server, client}},
		&p.etcdClient:        {name: "etcd-client", subject: pkix.Name{CommonName: "kube-apiserver"}, usages: []x509.ExtKeyUsage{client}},
		&p.admin:             {name: "admin", subject: pkix.Name{CommonName: "devcluster-admin", Organization: masters}, usages: []x509.ExtKeyUsage{client}},
		&p.controllerManager: {name: "kube-controller-manager", subject: pkix.Name{CommonName: "system:kube-controller-manager", Organization: masters}, usages: []x509.ExtKeyUsage{client}},
	}
}

type certificate struct {
	name    string
	subject pkix.Name
	usages  []x509.ExtKeyUsage
}

// loadPKI reads the PKI in dir, and makes a new one if there is none that is good for a while.
// The key for service accounts does not end and stays as long as it can be read.
func loadPKI(dir string, now time.Time) (*pki, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for certificates: %w", err)
	}
	p := &pki{caFile: filepath.Join(dir, "ca.crt"), serviceAccountKey: filepath.Join(dir, "service-account.key")}
	for id, c := range p.certificates() {
		id.certFile, id.keyFile = filepath.Join(dir, c.name+".crt"), filepath.Join(dir, c.name+".key")
	}
	err := p.read(now)
	if unreadable(err) {
		return nil, fmt.Errorf("read the certificates: %w", err)
	}
	if err != nil { // not there, damaged or at its end: nobody but us has it
		if err := p.make(now); err != nil {
			return nil, fmt.Errorf("make certificates: %w", err)
		}
	}
	if err := p.ensureServiceAccountKey(); err != nil {
		return nil, fmt.Errorf("make a key for service accounts: %w", err)
	}
	return p, nil
}

// unreadable tells a file that we may not read from one that is not there or is no good.
func unreadable(err error) bool {
	var pathError *fs.PathError
	return errors.As(err, &pathError) && !errors.Is(err, fs.ErrNotExist)
}

func (p *pki) read(now time.Time) (err error) {
	if p.caPEM, err = os.ReadFile(p.caFile); err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(p.caPEM) {
		return fmt.Errorf("%s has no certificate", p.caFile)
	}
	for id, c := range p.certificates() {
		if id.certPEM, err = os.ReadFile(id.certFile); err != nil {
			return err
		}
		if id.keyPEM, err = os.ReadFile(id.keyFile); err != nil {
			return err
		}
		pair, err := tls.X509KeyPair(id.certPEM, id.keyPEM)
		if err != nil {
			return fmt.Errorf("%s: %w", id.certFile, err)
		}
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now.Add(renewal), KeyUsages: c.usages})
		if err != nil {
			return fmt.Errorf("%s: %w", id.certFile, err)
		}
	}
	return nil
}

// make writes a new PKI over what is there. The authority's key is not kept: a new
// certificate takes a new authority.
func (p *pki) make(now time.Time) error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca, err := template(pkix.Name{CommonName: "devcluster-ca"}, now)
	if err != nil {
		return err
	}
	ca.IsCA, ca.BasicConstraintsValid = true, true
	ca.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	// Parsed again, for its key identifier.
	if ca, err = x509.ParseCertificate(caDER); err != nil {
		return err
	}
	p.caPEM = encode("CERTIFICATE", caDER)
	if err := WriteFile(p.caFile, p.caPEM); err != nil {
		return err
	}
	for id, c := range p.certificates() {
		if err := id.make(c, ca, caKey, now); err != nil {
			return err
		}
	}
	return nil
}

func (id *identity) make(c certificate, ca *x509.Certificate, caKey crypto.Signer, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf, err := template(c.subject, now)
	if err != nil {
		return err
	}
	leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, c.usages
	leaf.DNSNames = []string{"localhost"}
	leaf.IPAddresses = []net.IP{net.ParseIP(loopback)}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	id.certPEM = encode("CERTIFICATE", der)
	if id.keyPEM, err = encodeKey(key); err != nil {
		return err
	}
	if err := WriteFile(id.certFile, id.certPEM); err != nil {
		return err
	}
	return WriteFile(id.keyFile, id.keyPEM)
}

func template(subject pkix.Name, now time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-time.Hour), // for clocks that are put back
		NotAfter:     now.Add(validity),
	}, nil
}

func (p *pki) ensureServiceAccountKey() error {
	content, err := os.ReadFile(p.serviceAccountKey)
	if err == nil {
		block, _ := pem.Decode(content)
		if block != nil {
			if _, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
				return nil
			}
		}
	} else if unreadable(err) {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if content, err = encodeKey(key); err != nil {
		return err
	}
	return WriteFile(p.serviceAccountKey, content)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return encode("EC PRIVATE KEY", der), nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
