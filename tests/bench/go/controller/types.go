package main

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/scheme"
)

var groupVersion = schema.GroupVersion{Group: "modelwright.dev", Version: "v1alpha1"}

func addTypes(into *runtime.Scheme) error {
	builder := &scheme.Builder{GroupVersion: groupVersion}
	builder.Register(&TrainingJob{}, &TrainingJobList{}, &ModelVersion{}, &ModelVersionList{})
	return builder.AddToScheme(into)
}

// TrainingJob has what the controller reads and writes of the kind, with the names of the API.
type TrainingJob struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              Spec   `json:"spec"`
	Status            Status `json:"status,omitempty"`
}

type TrainingJobList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []TrainingJob `json:"items"`
}

type Spec struct {
	Publish    Publish       `json:"publish"`
	Data       Data          `json:"data"`
	Storage    Storage       `json:"storage"`
	Trainer    Trainer       `json:"trainer"`
	Workers    Workers       `json:"workers"`
	Checkpoint Checkpointing `json:"checkpoint"`
	Evaluation Evaluation    `json:"evaluation"`
	Suspend    bool          `json:"suspend,omitempty"`
}

type Publish struct {
	Model   string `json:"model"`
	Version string `json:"version"`
}

type Data struct {
	URI    string `json:"uri"`
	Target string `json:"target"`
	Task   string `json:"task"`
	Split  Split  `json:"split"`
}

type Split struct {
	Train      string `json:"train"`
	Validation string `json:"validation"`
	Test       string `json:"test"`
	Stratify   bool   `json:"stratify"`
	Seed       int64  `json:"seed"`
}

type Storage struct {
	URI       string     `json:"uri,omitempty"`
	Endpoint  string     `json:"endpoint,omitempty"`
	Region    string     `json:"region,omitempty"`
	SecretRef *Reference `json:"secretRef,omitempty"`
}

type Reference struct {
	Name string `json:"name"`
}

type Trainer struct {
	Recipe          string            `json:"recipe"`
	Hyperparameters map[string]string `json:"hyperparameters,omitempty"`
}

type Workers struct {
	Replicas  int32 `json:"replicas"`
	Resources struct {
		Requests map[string]resource.Quantity `json:"requests,omitempty"`
	} `json:"resources,omitempty"`
}

type Checkpointing struct {
	EverySteps int `json:"everySteps"`
	Keep       int `json:"keep"`
}

type Evaluation struct {
	Metrics []string `json:"metrics,omitempty"`
	Gates   []Gate   `json:"gates,omitempty"`
}

type Gate struct {
	Metric string `json:"metric"`
	Min    string `json:"min,omitempty"`
	Max    string `json:"max,omitempty"`
}

type Status struct {
	Phase              string             `json:"phase,omitempty"`
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
	Attempt            *Attempt           `json:"attempt,omitempty"`
	Restarts           *Restarts          `json:"restarts,omitempty"`
	StartTime          *metav1.Time       `json:"startTime,omitempty"`
	Storage            *Storage           `json:"storage,omitempty"`
}

type Attempt struct {
	Number  int    `json:"number"`
	JobName string `json:"jobName"`
}

type Restarts struct {
	Counted    int `json:"counted"`
	NotCounted int `json:"notCounted"`
}

// ModelVersion is watched for its existence alone.
type ModelVersion struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              struct {
		Source struct {
			TrainingJobRef Reference `json:"trainingJobRef"`
		} `json:"source"`
	} `json:"spec"`
}

type ModelVersionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ModelVersion `json:"items"`
}

func (in *TrainingJob) DeepCopyObject() runtime.Object {
	out := *in
	in.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	// The spec is never written to, so that its copies may share its maps.
	out.Status.Conditions = append([]metav1.Condition(nil), in.Status.Conditions...)
	if in.Status.Attempt != nil {
		attempt := *in.Status.Attempt
		out.Status.Attempt = &attempt
	}
	return &out
}

func (in *TrainingJobList) DeepCopyObject() runtime.Object {
	out := *in
	out.Items = make([]TrainingJob, len(in.Items))
	for index := range in.Items {
		out.Items[index] = *in.Items[index].DeepCopyObject().(*TrainingJob)
	}
	return &out
}

func (in *ModelVersion) DeepCopyObject() runtime.Object {
	out := *in
	in.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	return &out
}

func (in *ModelVersionList) DeepCopyObject() runtime.Object {
	out := *in
	out.Items = make([]ModelVersion, len(in.Items))
	for index := range in.Items {
		out.Items[index] = *in.Items[index].DeepCopyObject().(*ModelVersion)
	}
	return &out
}
