package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// The children are those of the operator (modelwright/controllers/trainingjob/children.py), field by field.

const (
	nameLabel      = "modelwright.dev/trainingjob"
	attemptLabel   = "modelwright.dev/attempt"
	hashAnnotation = "modelwright.dev/run-hash"
	container      = "trainer"
	image          = "trainer:bench"
	user           = int64(10001)
	grace          = int64(60)
	masterPort     = 29500
	progressPort   = 9400
)

// The exit codes of modelwright.contract.Outcome, in its order.
var exitCodes = []int32{10, 11, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25}

type any_ = map[string]any

func attemptName(job *TrainingJob) string {
	digest := sha256.Sum256([]byte(job.UID))
	return fmt.Sprintf("%s-%s-1", job.Name, hex.EncodeToString(digest[:])[:5])
}

func metadata(job *TrainingJob) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:      attemptName(job),
		Namespace: job.Namespace,
		Labels:    map[string]string{"app.kubernetes.io/managed-by": "modelwright", nameLabel: job.Name, attemptLabel: "1"},
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: groupVersion.String(), Kind: "TrainingJob", Name: job.Name, UID: job.UID,
			Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(false),
		}},
	}
}

func number(text string) float64 {
	value, _ := strconv.ParseFloat(text, 64)
	return value
}

func configMap(job *TrainingJob) (*corev1.ConfigMap, error) {
	spec, name := job.Spec, attemptName(job)
	gates := []any_{}
	for _, gate := range spec.Evaluation.Gates {
		bound := any_{"metric": gate.Metric}
		if gate.Min != "" {
			bound["min"] = number(gate.Min)
		}
		if gate.Max != "" {
			bound["max"] = number(gate.Max)
		}
		gates = append(gates, bound)
	}
	run, err := json.Marshal(any_{
		"contract": 1, "namespace": job.Namespace, "name": job.Name, "uid": job.UID, "attempt": 1,
		"publish": spec.Publish,
		"store":   any_{"uri": spec.Storage.URI, "endpoint": "http://store.invalid:7070", "region": "us-east-1"},
		"data": any_{
			"uri": spec.Data.URI, "target": spec.Data.Target, "task": spec.Data.Task,
			"split": any_{
				"train": number(spec.Data.Split.Train), "validation": number(spec.Data.Split.Validation),
				"test": number(spec.Data.Split.Test), "stratify": spec.Data.Split.Stratify, "seed": spec.Data.Split.Seed,
			},
		},
		"trainer": spec.Trainer,
		"workers": any_{
			"replicas": spec.Workers.Replicas, "processesPerWorker": 1, "master": name + "-0." + name,
			"masterPort": masterPort, "rendezvousSeconds": 600.0,
		},
		"checkpoint": spec.Checkpoint, "evaluation": any_{"gates": gates},
		"graceSeconds": 50.0, "stallSeconds": 600.0, "progressPort": progressPort,
	})
	if err != nil {
		return nil, err
	}
	return &corev1.ConfigMap{
		ObjectMeta: metadata(job), Immutable: ptr.To(true), Data: map[string]string{"job.json": string(run)},
	}, nil
}

func service(job *TrainingJob) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metadata(job),
		Spec: corev1.ServiceSpec{
			ClusterIP: "None", PublishNotReadyAddresses: true,
			Selector: map[string]string{"batch.kubernetes.io/job-name": attemptName(job)},
			Ports:    []corev1.ServicePort{{Name: "rendezvous", Port: masterPort}, {Name: "progress", Port: progressPort}},
		},
	}
}

func workers(job *TrainingJob) (*batchv1.Job, error) {
	meta := metadata(job)
	spec, err := json.Marshal(job.Spec)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(spec)
	meta.Annotations = map[string]string{hashAnnotation: hex.EncodeToString(digest[:])[:16]}
	rules := []batchv1.PodFailurePolicyRule{{
		Action:          batchv1.PodFailurePolicyActionFailJob,
		OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
	}}
	for _, code := range exitCodes {
		rules = append(rules, batchv1.PodFailurePolicyRule{
			Action: batchv1.PodFailurePolicyActionFailJob,
			OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
				ContainerName: ptr.To(container), Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{code},
			},
		})
	}
	requests := corev1.ResourceList{}
	for name, quantity := range job.Spec.Workers.Resources.Requests {
		requests[corev1.ResourceName(name)] = quantity
	}
	environment := []corev1.EnvFromSource{}
	if job.Spec.Storage.SecretRef != nil {
		reference := corev1.LocalObjectReference{Name: job.Spec.Storage.SecretRef.Name}
		environment = append(environment, corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: reference}})
	}
	return &batchv1.Job{
		ObjectMeta: meta,
		Spec: batchv1.JobSpec{
			CompletionMode: ptr.To(batchv1.IndexedCompletion),
			Completions:    ptr.To(job.Spec.Workers.Replicas), Parallelism: ptr.To(job.Spec.Workers.Replicas),
			BackoffLimit: ptr.To(int32(0)), PodReplacementPolicy: ptr.To(batchv1.Failed),
			PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: rules},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: meta.Labels},
				Spec: corev1.PodSpec{
					Subdomain: meta.Name, RestartPolicy: corev1.RestartPolicyNever,
					TerminationGracePeriodSeconds: ptr.To(grace), AutomountServiceAccountToken: ptr.To(false),
					SecurityContext: &corev1.PodSecurityContext{
						RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To(user), RunAsGroup: ptr.To(user), FSGroup: ptr.To(user),
						SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
					},
					Containers: []corev1.Container{{
						Name: container, Image: image, Args: []string{"run", "--job", "/etc/modelwright/job.json"},
						EnvFrom:   environment,
						Ports:     []corev1.ContainerPort{{Name: "progress", ContainerPort: progressPort}},
						Resources: corev1.ResourceRequirements{Requests: requests}, TerminationMessagePolicy: corev1.TerminationMessageReadFile,
						SecurityContext: &corev1.SecurityContext{
							AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
							Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
						},
						VolumeMounts: []corev1.VolumeMount{
							{Name: "job", MountPath: "/etc/modelwright", ReadOnly: true}, {Name: "scratch", MountPath: "/tmp"},
						},
					}},
					Volumes: []corev1.Volume{
						{Name: "job", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
							LocalObjectReference: corev1.LocalObjectReference{Name: meta.Name},
						}}},
						{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
					},
				},
			},
		},
	}, nil
}
