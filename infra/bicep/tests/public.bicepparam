// What `azd up` deploys as shipped.
using '../main.bicep'
extends '../main.bicepparam'

param environmentName = 'public'
param location = 'swedencentral'
