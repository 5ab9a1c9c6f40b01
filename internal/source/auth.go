package source

import (
	"crypto/x509"
	"encoding/base64"
	"errors"

	"golang.org/x/crypto/ssh"
)

// Auth holds resolved credentials. The zero value means none.
type Auth struct {
	// Username and Password are for HTTP basic authentication; a forge's access
	// token is such a password. Over SSH, Password is used if there is no key.
	Username, Password string
	// BearerToken is sent as "Authorization: Bearer …".
	BearerToken string
	// SSHKey is a private key in PEM form, SSHPassphrase opens it.
	SSHKey, SSHPassphrase []byte
	// KnownHosts lists the accepted SSH host keys, in the form of a known_hosts file.
	KnownHosts []byte
	// CAFile holds the PEM certificates to trust besides the system's.
	CAFile []byte
}

// AuthFromSecret reads credentials from the data of a Secret: username and
// password, or bearerToken, for HTTP, with ca.crt (or caFile); identity and
// known_hosts, with passphrase (or password) if the key has one, for SSH. It
// returns an [Error] that names the keys which are missing or contradict, never
// their values.
func AuthFromSecret(data map[string][]byte) (Auth, error) {
	a := Auth{
		BearerToken: string(data["bearerToken"]),
		SSHKey:      data["identity"],
		KnownHosts:  data["known_hosts"],
		CAFile:      data["ca.crt"],
	}
	if len(a.CAFile) == 0 {
		a.CAFile = data["caFile"]
	}
	username, password := string(data["username"]), string(data["password"])
	switch {
	case len(a.SSHKey) > 0:
		if len(a.KnownHosts) == 0 {
			return Auth{}, errorf(BadConfiguration, "the Secret has identity but no known_hosts; unknown host keys are never accepted")
		}
		a.SSHPassphrase = data["passphrase"]
		if len(a.SSHPassphrase) == 0 {
			a.SSHPassphrase = []byte(password)
		}
		if a.BearerToken != "" {
			return Auth{}, errorf(BadConfiguration, "the Secret has both identity and bearerToken; keep the one that fits the URL")
		}
	case a.BearerToken != "":
		if password != "" {
			return Auth{}, errorf(BadConfiguration, "the Secret has both bearerToken and password; keep the one that the server wants")
		}
	case username != "" && password == "":
		return Auth{}, errorf(BadConfiguration, "the Secret has username but no password")
	case username == "" && password != "":
		return Auth{}, errorf(BadConfiguration, "the Secret has password but no username; for an access token any user name will do, such as \"git\"")
	case username != "":
		a.Username, a.Password = username, password
	case len(a.CAFile) == 0:
		return Auth{}, errorf(BadConfiguration,
			"the Secret has none of the keys username and password, bearerToken, identity and known_hosts, ca.crt")
	}
	return a, nil
}

// secrets returns every string that must never show in an error.
func (a Auth) secrets() []string {
	s := []string{a.Password, a.BearerToken, string(a.SSHPassphrase), string(a.SSHKey)}
	if a.Password != "" {
		s = append(s, base64.StdEncoding.EncodeToString([]byte(a.Username+":"+a.Password)))
	}
	return s
}

// validate checks the kind of credentials against the URL. The SSH key itself is
// read by newSSHRemote.
func (a Auth) validate(loc location) error {
	switch loc.scheme {
	case schemeHTTP, schemeHTTPS:
		if len(a.SSHKey) > 0 {
			return errorf(BadConfiguration, "the credentials are an SSH key, but the URL is not an ssh URL")
		}
		if len(a.CAFile) > 0 && !x509.NewCertPool().AppendCertsFromPEM(a.CAFile) {
			return errorf(BadConfiguration, "ca.crt holds no PEM certificate")
		}
	case schemeSSH:
		if len(a.SSHKey) == 0 && a.Password == "" {
			return errorf(BadConfiguration, "an ssh URL needs a Secret with identity and known_hosts")
		}
		if len(a.KnownHosts) == 0 {
			return errorf(BadConfiguration, "an ssh URL needs known_hosts in the Secret; unknown host keys are never accepted")
		}
	}
	return nil
}

func (a Auth) sshAuth() (ssh.AuthMethod, error) {
	if len(a.SSHKey) == 0 {
		return ssh.Password(a.Password), nil
	}
	signer, err := ssh.ParsePrivateKey(a.SSHKey)
	if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		if len(a.SSHPassphrase) == 0 {
			return nil, errorf(BadConfiguration, "the SSH key in identity is encrypted, and the Secret has no passphrase")
		}
		signer, err = ssh.ParsePrivateKeyWithPassphrase(a.SSHKey, a.SSHPassphrase)
		if errors.Is(err, x509.IncorrectPasswordError) {
			return nil, errorf(BadConfiguration, "the passphrase doesn't open the SSH key in identity")
		}
	}
	if err != nil {
		// The parser's error may quote what it was given.
		return nil, errorf(BadConfiguration, "identity is not an SSH private key that can be read")
	}
	return ssh.PublicKeys(signer), nil
}
